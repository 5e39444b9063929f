use std::path::PathBuf;
use std::process::Command;

use super::Dir;

/// A key and a self-signed certificate for one DNS name, made by openssl. Whoever trusts the certificate trusts its holder.
pub struct Certificate {
    pub key: PathBuf,
    pub certificate: PathBuf,
}

impl Certificate {
    pub fn make(dir: &Dir, name: &str) -> Certificate {
        let made = Certificate {
            key: dir.join(&format!("{name}-key.pem")),
            certificate: dir.join(&format!("{name}.pem")),
        };
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-nodes", "-days", "2"]);
        command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args(["-subj", &format!("/CN={name}")]);
        command.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
        command.arg("-keyout").arg(&made.key);
        command.arg("-out").arg(&made.certificate);
        let output = command
            .output()
            .expect("openssl runs (make setup installs it)");
        assert!(output.status.success(), "{output:?}");
        made
    }
}
