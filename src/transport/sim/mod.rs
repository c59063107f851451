//! A network that exists in one thread's mind: virtual time, seeded delays, chosen faults.
