use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Port, spawn, wait};

/// What becomes of the replies.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Through,
    ByteByByte,
    Instead(&'static [u8]),
    /// The same, and the connection ends with it.
    LastWords(&'static [u8]),
    /// The connection stays open, and nothing comes back on it any more.
    Never,
    /// So much later, in their order.
    Late(Duration),
    /// One of so many reads from the server is passed on by half; then the connection is reset.
    ResetMidway(u32),
}

/// A TCP server before another that may change what it answers; what is sent to it always gets there.
pub struct FaultProxy {
    port: Port,
    way: Arc<Mutex<Way>>,
}

impl FaultProxy {
    pub fn start(to: SocketAddr) -> FaultProxy {
        let (port, way) = (Port::free(), Arc::new(Mutex::new(Way::Through)));
        let (addr, ways) = (port.addr(), Arc::clone(&way));
        let listener = wait(async move { TcpListener::bind(addr).await }).expect("a listener");
        spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                spawn(carry(client, to, Arc::clone(&ways)));
            }
        });
        FaultProxy { port, way }
    }

    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    pub fn set(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }
}

async fn carry(client: TcpStream, to: SocketAddr, ways: Arc<Mutex<Way>>) {
    let Ok(server) = TcpStream::connect(to).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let up = spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let (send, mut chunks) = mpsc::unbounded_channel();
    let down = spawn(read(from_server, ways, send));
    let mut number = 0;
    while let Some((due, way, chunk)) = chunks.recv().await {
        tokio::time::sleep_until(due).await;
        number += 1;
        let sent = match way {
            Way::Through | Way::Late(_) => to_client.write_all(&chunk).await,
            Way::Instead(bytes) => to_client.write_all(bytes).await,
            Way::LastWords(bytes) => {
                let _ = to_client.write_all(bytes).await;
                break;
            }
            Way::Never => std::future::pending().await,
            Way::ByteByByte => byte_by_byte(&mut to_client, &chunk).await,
            Way::ResetMidway(every) if number % every == 0 => {
                let _ = to_client.write_all(&chunk[..chunk.len() / 2]).await;
                let _ = socket2::SockRef::from(to_client.as_ref()).set_linger(Some(Duration::ZERO));
                break;
            }
            Way::ResetMidway(_) => to_client.write_all(&chunk).await,
        };
        if sent.is_err() {
            break;
        }
    }
    up.abort();
    down.abort();
}

type Chunk = (Instant, Way, Vec<u8>);

/// Reads on while earlier chunks wait for their time.
async fn read(mut from: OwnedReadHalf, ways: Arc<Mutex<Way>>, to: mpsc::UnboundedSender<Chunk>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let way = *ways.lock().unwrap();
        let late = match way {
            Way::Late(late) => late,
            _ => Duration::ZERO,
        };
        if to
            .send((Instant::now() + late, way, buffer[..length].to_vec()))
            .is_err()
        {
            break;
        }
    }
}

async fn byte_by_byte(
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    bytes: &[u8],
) -> std::io::Result<()> {
    for byte in bytes {
        to.write_all(&[*byte]).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
