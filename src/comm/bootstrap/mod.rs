//! The exchange between ranks at birth.
