//! What is still to be said when the process ends in good order.

use std::sync::Once;

/// Has `hook` called when the program returns from `main` or calls `exit`; the first call counts. Other threads may
/// still run then and hold any lock.
pub fn call_at_exit(hook: extern "C" fn()) {
    static HOOK: Once = Once::new();
    // SAFETY: the hook is a function of this library, which is never unloaded while in use. Without memory for it
    // the system refuses, and peers find the process gone instead of told.
    HOOK.call_once(|| unsafe {
        libc::atexit(hook);
    });
}
