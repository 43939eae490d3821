//! The node's configuration: its settings, the options of `-o`, and the addresses of `-l`.

pub(crate) mod address;
pub(crate) mod arguments;
pub(crate) mod numbers;
pub(crate) mod options;
pub(crate) mod settings;
