//! Hosts and what connects them.
