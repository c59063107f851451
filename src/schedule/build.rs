//! To come.
pub struct Builder;
