use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// Answers every HTTP request with the same bytes, until the test process ends.
pub struct FileServer {
    addr: SocketAddr,
}

impl FileServer {
    pub fn start(bytes: Vec<u8>) -> FileServer {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let addr = listener.local_addr().expect("its address");
        let bytes = Arc::new(bytes);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let bytes = Arc::clone(&bytes);
                std::thread::spawn(move || {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request);
                    let length = bytes.len();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(head.as_bytes());
                    let _ = stream.write_all(&bytes);
                });
            }
        });
        FileServer { addr }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
