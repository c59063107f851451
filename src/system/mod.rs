//! The thin unsafe rest.
