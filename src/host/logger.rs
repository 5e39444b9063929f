//! Carries the log, and the last words of a panic, to Envoy's.

use super::calls;

struct Logger;

/// Logs from here on, at the level Envoy logs this plugin at. Not earlier than the first configuration: no host call is
/// allowed while the module initializes.
pub fn start() {
    if log::set_logger(&Logger).is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            calls::log(calls::CRITICAL, &panic.to_string())
        }));
    }
    log::set_max_level(calls::log_level());
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Trace => 0,
            log::Level::Debug => 1,
            log::Level::Info => 2,
            log::Level::Warn => 3,
            log::Level::Error => 4,
        };
        calls::log(level, &record.args().to_string());
    }

    fn flush(&self) {}
}
