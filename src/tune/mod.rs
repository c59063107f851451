//! Which algorithm, by size.
