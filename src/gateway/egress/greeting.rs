//! The first bytes that a client sends: whether they are the greeting of TLS, and for whom.

use rustls::server::Acceptor;
use std::io;

/// A greeting is smaller than this.
const MOST: usize = 64 << 10;
/// The first byte of TLS. Source: RFC 8446, 5.1, `handshake`.
const HANDSHAKE: u8 = 22;

/// What was read of a greeting.
pub(super) enum Greeting {
    /// Not yet all of it.
    More,
    /// It is no TLS.
    Other,
    /// TLS, for the server of this name, if it says one.
    Tls(Option<String>),
    /// It begins like TLS, and goes on like nothing that is known.
    Unreadable,
}

/// Reads a greeting piece by piece.
pub(super) struct Reader {
    acceptor: Acceptor,
    read: usize,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { acceptor: Acceptor::default(), read: 0 }
    }

    /// Takes the next bytes, of which there are some.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Greeting {
        if self.read == 0 && bytes.first() != Some(&HANDSHAKE) {
            return Greeting::Other;
        }
        self.read += bytes.len();
        while !bytes.is_empty() {
            match self.acceptor.read_tls(&mut bytes as &mut dyn io::Read) {
                Ok(0) | Err(_) => return Greeting::Unreadable,
                Ok(_) => {}
            }
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    return Greeting::Tls(accepted.client_hello().server_name().map(str::to_ascii_lowercase));
                }
                Ok(None) => {}
                Err(_) => return Greeting::Unreadable,
            }
        }
        if self.read > MOST { Greeting::Unreadable } else { Greeting::More }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    fn greeting(name: &'static str) -> Vec<u8> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_name_of_a_greeting_is_read_from_whole_and_from_pieces() {
        let bytes = greeting("a.example.org");
        assert!(matches!(Reader::new().read(&bytes), Greeting::Tls(Some(name)) if name == "a.example.org"));
        let mut reader = Reader::new();
        let (last, first) = bytes.split_last().unwrap();
        for byte in first {
            assert!(matches!(reader.read(&[*byte]), Greeting::More));
        }
        assert!(matches!(reader.read(&[*last]), Greeting::Tls(Some(name)) if name == "a.example.org"));
        assert!(matches!(Reader::new().read(&greeting("10.0.0.1")), Greeting::Tls(None)), "addresses are not named");
    }

    #[test]
    fn other_bytes_are_told_from_it() {
        assert!(matches!(Reader::new().read(b"SSH-2.0-x\r\n"), Greeting::Other));
        let mut broken = greeting("a.example.org");
        broken[5] = 9;
        assert!(matches!(Reader::new().read(&broken), Greeting::Unreadable));
        assert!(matches!(Reader::new().read(b"\x16no record at all, and not of any version"), Greeting::Unreadable | Greeting::More));
    }
}
