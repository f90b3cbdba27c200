//! `ringway replica --check`: one heartbeat requested of the replica on this machine. The image's HEALTHCHECK, since the
//! image has no shell.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(1);

/// Requests a heartbeat on the address that the replica is bound to, or on 127.0.0.1 where that is unspecified.
pub fn check(listen: SocketAddr) -> Result<(), String> {
    let ip = if listen.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listen.ip() };
    let address = SocketAddr::new(ip, listen.port());
    let response = request(address).map_err(|why| format!("{address} answered no heartbeat: {why}"))?;
    if response.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(format!("{address} did not answer 200")) }
}

fn request(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /heartbeat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    stream.take(1024).read_to_end(&mut response)?;
    Ok(response)
}
