use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::Duration;

use super::poll;

/// A child process that is killed on drop, and by the kernel when this process is gone.
#[derive(Debug)]
pub struct Process {
    child: Mutex<Child>,
    pid: u32,
}

type Order = (Command, mpsc::SyncSender<std::io::Result<Child>>);

/// The kernel's death signal comes when the *thread* that started the child ends, and a test's thread ends with the
/// test: so one thread that never ends starts them all.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (send, receive) = mpsc::channel::<Order>();
    let serve = move || {
        for (mut command, reply) in receive {
            let _ = reply.send(command.spawn());
        }
    };
    std::thread::Builder::new()
        .name("spawner".into())
        .spawn(serve)
        .expect("a thread");
    Mutex::new(send)
});

impl Process {
    /// Starts a command. It gets a process group of its own: Ctrl-C reaches this process, which stops the child itself.
    pub fn start(mut command: Command) -> Process {
        let program = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        #[cfg(target_os = "linux")]
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(
                || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                },
            );
        }
        let (reply, answer) = mpsc::sync_channel(1);
        SPAWNER
            .lock()
            .unwrap()
            .send((command, reply))
            .expect("the spawner runs");
        let child = answer.recv().expect("the spawner answers");
        let child = child.unwrap_or_else(|error| panic!("{program} can't be started: {error}"));
        let pid = child.id();
        Process {
            child: Mutex::new(child),
            pid,
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal, unless the process has ended: its id may be someone else's by then.
    pub fn signal(&self, signal: libc::c_int) {
        let mut child = self.child.lock().unwrap();
        if child.try_wait().expect("waitpid").is_none() {
            // SAFETY: plain system call; the child was not reaped, so the id is still its own.
            unsafe { libc::kill(self.pid as libc::pid_t, signal) };
        }
    }

    /// How it ended, if it did.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().expect("waitpid")
    }

    pub fn wait_exit(&self, timeout: Duration) -> Option<ExitStatus> {
        poll(timeout, || self.exited())
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
