//! Starts and stops the real programs for the tests beside this crate.
