//! One heartbeat asked of the replica next door: the image's HEALTHCHECK, for an image without a shell.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(1);

/// Asks 127.0.0.1 (or the address the replica is bound to) and says why it is not well.
pub fn check(listen: SocketAddr) -> Result<(), String> {
    let ip = if listen.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listen.ip() };
    let address = SocketAddr::new(ip, listen.port());
    let answer = ask(address).map_err(|why| format!("{address} gives no heartbeat: {why}"))?;
    if answer.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(format!("{address} did not answer 200")) }
}

fn ask(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /heartbeat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(1024).read_to_end(&mut answer)?;
    Ok(answer)
}
