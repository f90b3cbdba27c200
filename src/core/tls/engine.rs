//! One TLS connection of rustls, behind the few calls that [`Tls`](super::Tls) needs. This is the only file that names
//! rustls' connection types: another version of its interface changes nothing else. Buffers and their limits never enter.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig, CommonState, Error, HandshakeKind, ProtocolVersion, ServerConfig};

use super::policy::ClientRequest;
use super::{ClientCertificate, HandshakeInfo, Resumption, TlsFault, TlsVersion};

pub struct RecordEngine {
    connection: EngineRole,
}

enum EngineRole {
    Server(UnbufferedServerConnection, ClientRequest),
    Client(UnbufferedClientConnection),
}

/// Where the engine stands when it has nothing more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// It waits for records, or for plaintext to seal.
    Waits,
    /// The peer said close_notify.
    PeerClosed,
}

/// What the engine gives while it works through records.
pub trait Sink {
    fn plaintext(&mut self, bytes: &[u8]);
    /// Where ciphertext goes: at least what the engine was promised.
    fn space(&mut self) -> &mut [u8];
    fn commit(&mut self, n: usize);
}

/// What is written as soon as the state allows it.
#[derive(Clone, Copy)]
enum Write<'a> {
    Nothing,
    Plaintext(&'a [u8]),
    CloseNotify,
    #[cfg(test)]
    KeyUpdate,
}

/// What follows a state of rustls.
enum Acted {
    Again,
    Stop(EngineState),
    Written,
}

impl RecordEngine {
    pub fn server(config: Arc<ServerConfig>, request: ClientRequest) -> Result<RecordEngine, TlsFault> {
        let connection = UnbufferedServerConnection::new(config).map_err(fault)?;
        Ok(RecordEngine { connection: EngineRole::Server(connection, request) })
    }

    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<RecordEngine, TlsFault> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(fault)?;
        Ok(RecordEngine { connection: EngineRole::Client(connection) })
    }

    pub fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Works through `fed`, the records that it has not discarded yet. Returns how many of those bytes, from the front, it
    /// needs no more. After an error it has said its alert, and is not called again.
    pub fn process(&mut self, fed: &mut [u8], sink: &mut impl Sink) -> (usize, Result<EngineState, TlsFault>) {
        let mut done = 0;
        let result = loop {
            let (n, next) = self.step(fed.get_mut(done..).unwrap_or_default(), sink, Write::Nothing);
            done += n;
            match next {
                Ok(Acted::Again) => {}
                Ok(Acted::Stop(progress)) => break Ok(progress),
                Ok(Acted::Written) => break Ok(EngineState::Waits),
                Err(error) => break Err(error),
            }
        };
        if result.is_err() {
            // rustls looks at no record before it has given its alert.
            while self.state().wants_write() {
                if !matches!(self.step(&mut [], sink, Write::Nothing), (_, Ok(Acted::Again))) {
                    break;
                }
            }
        }
        (done, result.map_err(fault))
    }

    /// Seals `plain` into the sink. `fed` is what `process` left of it.
    pub fn seal(&mut self, plain: &[u8], fed: &mut [u8], sink: &mut impl Sink) -> Result<(), TlsFault> {
        self.write(Write::Plaintext(plain), fed, sink)
    }

    pub fn close_notify(&mut self, fed: &mut [u8], sink: &mut impl Sink) -> Result<(), TlsFault> {
        self.write(Write::CloseNotify, fed, sink)
    }

    /// Changes the keys of what is sealed from now on, and says so (RFC 8446 section 4.6.3).
    #[cfg(test)]
    pub fn update_keys(&mut self, sink: &mut impl Sink) -> Result<(), TlsFault> {
        self.write(Write::KeyUpdate, &mut [], sink)
    }

    pub fn handshake(&self) -> HandshakeInfo {
        let state = self.state();
        HandshakeInfo {
            version: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
                _ => TlsVersion::Tls13,
            },
            resumption: match state.handshake_kind() {
                Some(HandshakeKind::Resumed) => Resumption::Resumed,
                _ => Resumption::Full,
            },
            alpn: state.alpn_protocol().map(Into::into),
            client_certificate: self.client_certificate(),
        }
    }

    fn client_certificate(&self) -> ClientCertificate {
        let EngineRole::Server(server, ClientRequest::Certificate) = &self.connection else {
            return ClientCertificate::NotRequested;
        };
        let leaf = server.peer_certificates().and_then(<[_]>::first);
        leaf.map_or(ClientCertificate::Absent, |leaf| ClientCertificate::Verified(leaf.as_ref().into()))
    }

    fn state(&self) -> &CommonState {
        match &self.connection {
            EngineRole::Server(server, _) => server,
            EngineRole::Client(client) => client,
        }
    }

    fn write(&mut self, write: Write<'_>, fed: &mut [u8], sink: &mut impl Sink) -> Result<(), TlsFault> {
        loop {
            match self.step(fed, sink, write) {
                (_, Ok(Acted::Again)) => {}
                (_, Ok(Acted::Written)) => return Ok(()),
                (_, Ok(Acted::Stop(_))) => return Err(TlsFault::Protocol("nothing may be sent now".into())),
                (_, Err(error)) => return Err(fault(error)),
            }
        }
    }

    fn step(&mut self, fed: &mut [u8], sink: &mut impl Sink, write: Write<'_>) -> (usize, Result<Acted, Error>) {
        match &mut self.connection {
            EngineRole::Server(server, _) => act(server.process_tls_records(fed), sink, write),
            EngineRole::Client(client) => act(client.process_tls_records(fed), sink, write),
        }
    }
}

/// Does what rustls asks for.
fn act<Side>(
    status: UnbufferedStatus<'_, '_, Side>,
    sink: &mut impl Sink,
    write: Write<'_>,
) -> (usize, Result<Acted, Error>) {
    let UnbufferedStatus { discard, state } = status;
    let next = state.and_then(|state| match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                sink.plaintext(record?.payload);
            }
            Ok(Acted::Again)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let n = data.encode(sink.space()).map_err(unwritten)?;
            sink.commit(n);
            Ok(Acted::Again)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Acted::Again)
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            let n = match write {
                Write::Nothing => return Ok(Acted::Stop(EngineState::Waits)),
                Write::Plaintext(plain) => traffic.encrypt(plain, sink.space()).map_err(unwritten)?,
                Write::CloseNotify => traffic.queue_close_notify(sink.space()).map_err(unwritten)?,
                #[cfg(test)]
                Write::KeyUpdate => {
                    traffic.refresh_traffic_keys()?;
                    0
                }
            };
            sink.commit(n);
            Ok(Acted::Written)
        }
        ConnectionState::PeerClosed => Ok(Acted::Stop(EngineState::PeerClosed)),
        ConnectionState::BlockedHandshake | ConnectionState::Closed => Ok(Acted::Stop(EngineState::Waits)),
        // Early data is not accepted by any configuration of ours.
        _ => Err(Error::HandshakeNotComplete),
    });
    (discard, next)
}

/// Sinks have the room that they promise: this does not happen.
fn unwritten(error: impl std::fmt::Display) -> Error {
    Error::General(error.to_string())
}

fn fault(error: Error) -> TlsFault {
    TlsFault::Protocol(match &error {
        Error::InvalidCertificate(CertificateError::Other(own)) => format!("invalid peer certificate: {own}"),
        error => error.to_string(),
    })
}
