//! The only place that sees C.
