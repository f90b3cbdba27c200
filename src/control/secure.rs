//! TLS of the control plane towards servers: of probes, and of the APIs that sources ask. What is said in it is not known
//! here.

use std::io;
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::core::snapshot::Endpoint;
use crate::core::tls::upstream::UpstreamPolicy;

/// Shakes hands with the server at `endpoint`, which `stream` is connected to.
pub async fn secure<S>(stream: S, policy: &UpstreamPolicy, endpoint: &Endpoint) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let unix_seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (config, server) =
        policy.client(endpoint, unix_seconds).map_err(|fault| io::Error::other(fault.to_string()))?;
    TlsConnector::from(config).connect(server, stream).await
}
