//! What went wrong, in words that a person can act on.
//!
//! One enum. Every variant says what was called or attempted, what was expected, and what to do; the number
//! that the interface returns follows from the variant. It is built where the cause is first known, and
//! logged once, there.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::ffi::CString;
use std::fmt::Display;
use std::sync::Mutex;

/// The interface's result numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum Code {
    Success = 0,
    UnhandledCudaError = 1,
    SystemError = 2,
    InternalError = 3,
    InvalidArgument = 4,
    InvalidUsage = 5,
    RemoteError = 6,
    InProgress = 7,
    Timeout = 8,
}

/// Why an operation did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value that the call cannot take.
    #[error("{call}: {argument} {problem}; {remedy}")]
    Argument {
        /// The function, as the caller knows it.
        call: &'static str,
        /// Which argument.
        argument: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A call at a time or on an object where it has no meaning.
    #[error("{call}: {problem}; {remedy}")]
    Usage {
        /// The function, as the caller knows it.
        call: &'static str,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The operating system said no.
    #[error("{attempt} failed: {cause}; {remedy}")]
    System {
        /// What was attempted.
        attempt: String,
        /// The system's words.
        cause: String,
        /// What to do.
        remedy: String,
    },
    /// A peer is gone, or left.
    #[error("{0}")]
    Remote(String),
    /// Two ranks called different things.
    #[error("{0}")]
    Mismatch(String),
    /// Someone did not come in time.
    #[error("{0}")]
    Timeout(String),
    /// The communicator was aborted.
    #[error("{0}")]
    Aborted(String),
    /// A promise of ours did not hold.
    #[error("internal error: {0}; please report it with the log of SHOAL_DEBUG=TRACE")]
    Internal(String),
}

impl Error {
    /// A bad argument.
    pub fn argument(
        call: &'static str,
        argument: &'static str,
        problem: impl Display,
        remedy: impl Display,
    ) -> Error {
        Error::Argument { call, argument, problem: problem.to_string(), remedy: remedy.to_string() }
    }

    /// A call at the wrong time.
    pub fn usage(call: &'static str, problem: impl Display, remedy: impl Display) -> Error {
        Error::Usage { call, problem: problem.to_string(), remedy: remedy.to_string() }
    }

    /// A failed system call.
    pub fn system(attempt: impl Display, cause: impl Display, remedy: impl Display) -> Error {
        Error::System { attempt: attempt.to_string(), cause: cause.to_string(), remedy: remedy.to_string() }
    }

    /// A system call that failed, or that is forbidden here: then no limit helps, but leave for `calls`.
    pub fn refused(
        attempt: impl Display,
        cause: &std::io::Error,
        calls: &str,
        remedy: impl Display,
    ) -> Error {
        use std::io::ErrorKind::{PermissionDenied, Unsupported};
        match cause.kind() {
            PermissionDenied | Unsupported => {
                let remedy = format!(
                    "allow {calls}, which a filter of system calls (a container's, say) forbids here"
                );
                Error::system(attempt, cause, remedy)
            }
            _ => Error::system(attempt, cause, remedy),
        }
    }

    /// The same, of the function that the caller knows: several functions share what found it.
    #[must_use]
    pub fn of_call(self, name: &'static str) -> Error {
        match self {
            Error::Argument { argument, problem, remedy, .. } => {
                Error::Argument { call: name, argument, problem, remedy }
            }
            Error::Usage { problem, remedy, .. } => Error::Usage { call: name, problem, remedy },
            other => other,
        }
    }

    /// The number that the interface returns for it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Error::Argument { .. } => Code::InvalidArgument,
            Error::Usage { .. } | Error::Mismatch(_) | Error::Aborted(_) => Code::InvalidUsage,
            Error::System { .. } => Code::SystemError,
            Error::Remote(_) => Code::RemoteError,
            Error::Timeout(_) => Code::Timeout,
            Error::Internal(_) => Code::InternalError,
        }
    }
}

/// What every fallible function returns.
pub type Result<T> = std::result::Result<T, Error>;

/// The interface's words for a result number; they are compared by people's scripts, so they are exact.
#[must_use]
pub const fn code_text(code: i32) -> &'static std::ffi::CStr {
    match code {
        0 => c"no error",
        1 => c"unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        2 => c"unhandled system error (run with NCCL_DEBUG=INFO for details)",
        3 => c"internal error - please report this issue to the NCCL developers",
        4 => c"invalid argument (run with NCCL_DEBUG=WARN for details)",
        5 => c"invalid usage (run with NCCL_DEBUG=WARN for details)",
        6 => c"remote process exited or there was a network error",
        7 => c"NCCL operation in progress",
        8 => c"timeout",
        _ => c"unknown result code",
    }
}

thread_local! {
    static LAST_OF_THREAD: RefCell<Option<CString>> = const { RefCell::new(None) };
    /// What this thread was shown of the process's last error, kept alive for who looks at it.
    static SHOWN: RefCell<Option<CString>> = const { RefCell::new(None) };
}
static LAST_OF_PROCESS: Mutex<Option<CString>> = Mutex::new(None);

/// Keeps `error` as the last error of this thread and of the process.
pub fn set_last(error: &Error) {
    let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
    *LAST_OF_PROCESS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(text.clone());
    LAST_OF_THREAD.with(|last| *last.borrow_mut() = Some(text));
}

/// Gives `read` the last error of this thread, else of the process, else the empty string. The pointer that
/// it hands out lives until this thread's next failing call, or until it asks again.
pub fn with_last<R>(read: impl FnOnce(&std::ffi::CStr) -> R) -> R {
    LAST_OF_THREAD.with_borrow(|last| {
        if let Some(last) = last {
            return read(last);
        }
        // Not kept as this thread's own: other threads may fail again before it asks again.
        SHOWN.with_borrow_mut(|shown| {
            shown.clone_from(&LAST_OF_PROCESS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
            read(shown.as_deref().unwrap_or(c""))
        })
    })
}
