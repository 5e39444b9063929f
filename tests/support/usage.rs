//! What a process has used so far, by the kernel's accounts.

/// CPU time and memory of one process, all its threads together.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU time, in seconds.
    pub cpu_s: f64,
    /// Resident memory now, in bytes.
    pub resident: f64,
    /// The most it ever was, in bytes.
    pub peak: f64,
}

impl Usage {
    #[track_caller]
    pub fn of(pid: u32) -> Usage {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kb.unwrap_or_else(|| panic!("{name} of {pid}")) * 1024.0
        };
        // Finer than the clock ticks of /proc/PID/stat.
        let (mut clock, mut time) = (
            0,
            libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
        );
        // SAFETY: both pointers live across the calls.
        let status = unsafe {
            libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock)
                | libc::clock_gettime(clock, &mut time)
        };
        assert_eq!(status, 0, "the clock of {pid}");
        Usage {
            cpu_s: time.tv_sec as f64 + time.tv_nsec as f64 / 1e9,
            resident: bytes("VmRSS:"),
            peak: bytes("VmHWM:"),
        }
    }
}
