//! The timeouts and sizes of a service, and which forwarding fields it trusts: one plain value. Timeouts are in
//! milliseconds, sizes in bytes.

/// What is done with the `X-Forwarded-*` and `Forwarded` fields of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// `X-Forwarded-For` is appended to, the others are cut.
    Append,
    /// All are cut: `X-Forwarded-For` names the client alone.
    Replace,
    /// They come from a trusted proxy: they stay, and `X-Forwarded-For` is appended to.
    Keep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a complete request head, from its first byte.
    pub head_timeout_ms: u64,
    /// For a client connection without a request, from accept on.
    pub idle_timeout_ms: u64,
    /// For one connection to a replica.
    pub connect_timeout_ms: u64,
    /// From the last byte of the request, or the last interim response, to the response head.
    pub response_timeout_ms: u64,
    /// For a body without a byte in either direction.
    pub stall_timeout_ms: u64,
    /// Bytes per second. n bytes of a client's body extend the stall deadline by at most n / `min_body_rate` seconds. 0: any
    /// byte extends it by the whole timeout.
    pub min_body_rate: u64,
    /// For a tunnel (an upgraded connection, or a service of mode tcp) without a byte in either direction.
    pub tunnel_timeout_ms: u64,
    /// For requests in flight when a replica or the balancer drains.
    pub drain_timeout_ms: u64,
    /// For an idle pooled upstream connection.
    pub pool_idle_timeout_ms: u64,
    /// Idle upstream connections per replica and worker.
    pub pool_size: usize,
    /// Replicas that one request may be tried on.
    pub attempts: u32,
    /// Requests in flight on one upstream connection (pipelining, RFC 9112 section 9.3.2). Below 2: no pipelining.
    pub upstream_pipelining: usize,
    /// Bytes of a request line; a longer one is answered 414.
    pub line_limit: usize,
    /// Bytes of a head; a longer request head is answered 431, a longer response head 502.
    pub head_limit: usize,
    /// Fields of a head; more are answered 431 in a request, 502 in a response.
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
