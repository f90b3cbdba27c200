//! Every deadline and size that a service keeps, and whom it trusts, in one plain value. Units are in the names.

/// What becomes of `X-Forwarded-*` and `Forwarded` that a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anybody may have sent them: `X-Forwarded-For` is appended to, the rest goes.
    Append,
    /// Nothing of them goes on, `X-Forwarded-For` included: it names the client and nobody else.
    Replace,
    /// Another proxy of ours sent them: they stay, and `X-Forwarded-For` is appended to.
    Keep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The whole client head, from its first byte.
    pub head_timeout_ms: u64,
    /// A client connection with no request under way, from accept on.
    pub idle_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    /// From the request's last byte (or the last interim response) to the response head.
    pub response_timeout_ms: u64,
    /// No byte moved in either direction while a body is open.
    pub stall_timeout_ms: u64,
    /// Bytes a second. A client that sends or takes a body more slowly puts that deadline off by no more than its bytes
    /// are worth. 0: by any byte.
    pub min_body_rate: u64,
    /// No byte moved in either direction through a tunnel (an upgraded connection, or a service of mode tcp).
    pub tunnel_timeout_ms: u64,
    /// What requests in flight get when a replica or the balancer drains.
    pub drain_timeout_ms: u64,
    /// An idle pooled upstream connection.
    pub pool_idle_timeout_ms: u64,
    /// Idle upstream connections kept per replica and worker.
    pub pool_size: usize,
    /// How many replicas one request may be tried on.
    pub attempts: u32,
    /// Requests that one upstream connection may carry at once (RFC 9112 section 9.3.2). Below 2: one after another.
    pub upstream_pipelining: usize,
    /// A request line longer than this is answered 414.
    pub line_limit: usize,
    /// A head longer than this is answered 431 (a response head: 502).
    pub head_limit: usize,
    /// More fields than this: 431 (in a response: 502).
    pub field_limit: usize,
    pub trust: Trust,
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        head_timeout_ms: 10_000,
        idle_timeout_ms: 60_000,
        connect_timeout_ms: 500,
        response_timeout_ms: 30_000,
        stall_timeout_ms: 30_000,
        min_body_rate: 100,
        tunnel_timeout_ms: 3_600_000,
        drain_timeout_ms: 10_000,
        pool_idle_timeout_ms: 60_000,
        pool_size: 1024,
        attempts: 3,
        upstream_pipelining: 0,
        line_limit: 8 * 1024,
        head_limit: 16 * 1024,
        field_limit: 100,
        trust: Trust::Append,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}
