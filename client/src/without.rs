//! What stands in the place of a feature that is off, so that no caller has to know.

#[cfg(not(feature = "tls"))]
pub(crate) mod tls {
    use std::io;

    use tokio::net::TcpStream;

    /// Cannot be made.
    #[derive(Debug, Clone)]
    pub(crate) enum Tls {}

    impl Tls {
        pub(crate) async fn connect(&self, _host: &str, _stream: TcpStream) -> io::Result<TcpStream> {
            match *self {}
        }
    }
}

#[cfg(not(feature = "near-cache"))]
pub(crate) mod near_cache {
    use std::marker::PhantomData;
    use std::time::Instant;

    use crate::value::Encoded;

    /// Cannot be made.
    pub(crate) enum NearCache {}

    pub(crate) enum ChangeCount {}

    pub(crate) struct Changing<'a>(PhantomData<&'a ()>);

    impl NearCache {
        pub(crate) fn get(&self, _key: &[u8]) -> Option<Encoded> {
            match *self {}
        }

        pub(crate) fn mark(&self, _key: &[u8]) -> ChangeCount {
            match *self {}
        }

        pub(crate) fn insert(&self, _key: &[u8], _value: &Encoded, _mark: ChangeCount, _until: Option<Instant>) {
            match *self {}
        }

        pub(crate) fn clear(&self) {
            match *self {}
        }

        pub(crate) fn changing<'a>(&'a self, _key: &'a [u8]) -> Changing<'a> {
            match *self {}
        }
    }
}

#[cfg(not(feature = "metrics"))]
pub(crate) mod metrics {
    use std::time::Instant;

    use crate::cluster::circuit::Circuit;
    use crate::connection::link::Answer;
    use crate::error::{Error, Result};

    pub(crate) struct NodeMetrics;

    impl NodeMetrics {
        pub(crate) fn new(_node: &str, _wanted: bool) -> NodeMetrics {
            NodeMetrics
        }

        #[inline]
        pub(crate) fn begin(&self) -> Measured {
            Measured
        }

        pub(crate) fn report(&self, _state: impl FnOnce() -> (Circuit, usize)) {}
    }

    pub(crate) struct Measured;

    impl Measured {
        #[inline]
        pub(crate) fn end(self, _operation: &'static str, _requests: usize, _answers: Result<&[Answer], &Error>) {}
    }

    pub(crate) struct LoadMetrics;

    impl LoadMetrics {
        pub(crate) fn new(_wanted: bool) -> LoadMetrics {
            LoadMetrics
        }

        pub(crate) fn load(&self, _began: Instant, _succeeded: bool) {}

        #[inline]
        pub(crate) fn near_hit(&self) {}
    }
}
