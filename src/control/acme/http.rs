//! HTTPS to an ACME server, as instant-acme asks for it: hyper's client over our TLS, with limits of time and size. What is
//! sent and what a response means is not known here.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::time::timeout;

use super::unix_seconds;
use crate::core::tls::TlsFault;
use crate::core::tls::roots::Roots;

const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A chain has a few KiB.
const BODY_MAX: usize = 1024 * 1024;
/// RFC 8555 section 6.1.
const AGENT: &str = concat!("ringway/", env!("CARGO_PKG_VERSION"), " instant-acme");

pub struct AcmeHttp {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    retry_after: RetryAfter,
}

/// When the server wants to be asked again, in seconds since 1970: of its last refusal that said so.
#[derive(Clone, Debug, Default)]
pub struct RetryAfter(Arc<AtomicU64>);

impl AcmeHttp {
    pub fn new(roots: &Roots, retry_after: RetryAfter) -> Result<AcmeHttp, TlsFault> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_LIMIT));
        let https = HttpsConnectorBuilder::new().with_tls_config(roots.client()?).https_only().enable_http1();
        let client = Client::builder(TokioExecutor::new()).build(https.wrap_connector(http));
        Ok(AcmeHttp { client, retry_after })
    }
}

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let (response, retry_after) = (self.client.request(request), self.retry_after.clone());
        Box::pin(async move {
            let whole = async {
                let (parts, body) = response.await.map_err(|error| Error::Other(error.into()))?.into_parts();
                let body = Limited::new(body, BODY_MAX).collect().await.map_err(Error::Other)?.to_bytes();
                Ok::<_, Error>(Response::from_parts(parts, body))
            };
            let late = |_| Error::Other(format!("no answer within {} s", REQUEST_LIMIT.as_secs()).into());
            let (parts, body) = timeout(REQUEST_LIMIT, whole).await.map_err(late)??.into_parts();
            if parts.status.is_client_error() || parts.status.is_server_error() {
                retry_after.note(parts.headers.get(RETRY_AFTER));
            }
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

impl RetryAfter {
    pub fn unix_seconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Seconds from now on, or a date (RFC 9110 section 10.2.3).
    fn note(&self, field: Option<&HeaderValue>) {
        let Some(text) = field.and_then(|field| field.to_str().ok()) else { return };
        let at = match text.trim().parse::<u64>() {
            Ok(seconds) => unix_seconds(SystemTime::now()).saturating_add(seconds),
            Err(_) => httpdate::parse_http_date(text).map_or(0, unix_seconds),
        };
        self.0.fetch_max(at, Ordering::Relaxed);
    }
}
