use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder for a server's data and logs.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    temporary: bool,
}

impl Dir {
    /// A fresh one, removed on drop.
    pub fn temporary() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "slotgate-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        // A process of the same id may have been killed before it could tidy up.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Dir {
            path,
            temporary: true,
        }
    }

    /// One that stays.
    pub fn kept(path: impl Into<PathBuf>) -> Dir {
        let path = path.into();
        std::fs::create_dir_all(&path).expect("the folder can be made");
        Dir {
            path,
            temporary: false,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
