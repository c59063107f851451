//! Which messages share a frame, and the frame layout.
