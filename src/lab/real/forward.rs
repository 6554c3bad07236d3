//! `autovibe lab forward`: one connection of a guest, standard input and output, carried to the hub's gateway.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

/// Carries standard input and output to `target`: an address, or a file that has one in it.
///
/// QEMU runs this for each connection that a guest opens. The guest may close its side first and still gets the answer;
/// when the gateway has closed its side the connection ends, as nothing more can be answered.
pub fn forward(target: &str) -> io::Result<()> {
    let address = if target.contains('/') { std::fs::read_to_string(target)?.trim().to_owned() } else { target.to_owned() };
    let upstream = TcpStream::connect(address)?;
    upstream.set_nodelay(true)?;
    let mut to_gateway = upstream.try_clone()?;
    let mut from_gateway = upstream;
    thread::spawn(move || {
        // An error means that the guest or the gateway is gone, which the other direction sees, too.
        carry(&mut io::stdin().lock(), &mut to_gateway).ok();
        to_gateway.shutdown(Shutdown::Write).ok();
    });
    carry(&mut from_gateway, &mut io::stdout().lock())
}

/// Copies until the end, each piece as soon as it is there: events must not wait for a buffer to fill.
fn carry(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&buffer[..length])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
