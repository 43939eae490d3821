//! Whether calls go to a node.

/// State of a node's circuit breaker: whether calls go to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// The first attempt to connect is under way; calls wait for it.
    Connecting,
    /// Calls go to the node.
    Closed,
    /// The node is ejected: calls fail at once, or go to the node that [`Failover`](crate::Failover) selects. The
    /// client tries to connect again in the background, with growing pauses of up to 2 s.
    Open,
}

impl Circuit {
    /// Returns the state's name in the metrics.
    #[cfg(feature = "metrics")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Circuit::Connecting => "connecting",
            Circuit::Closed => "closed",
            Circuit::Open => "open",
        }
    }
}
