//! What programs link against and this library does not do yet. Each answers at once and says so.
//!
//! None of these looks at an argument, so none names them: C's caller puts the arguments away itself.

use crate::abi::types::ResultNumber;
use crate::abi::wall;
use crate::error::Error;

#[cold]
fn error(call: &'static str) -> Error {
    Error::usage(
        call,
        format_args!("{call} is not built yet in this library"),
        "do without it, or load NVIDIA's libnccl.so.2 for this program",
    )
}

/// Functions that answer ncclInvalidUsage, behind the wall of their kind.
macro_rules! unbuilt {
    ($wall:path: $($twin:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $twin() -> ResultNumber {
            // The name without the p of the twin.
            let call = stringify!($twin).split_at(1).1;
            $wall(call, || Err(error(call)))
        }
    )*};
}

unbuilt! { wall::plain:
    pncclParamBind pncclParamGet pncclParamGetStr pncclParamGetParameter pncclParamGetAllParameterKeys
    pncclParamGetI8 pncclParamGetI16 pncclParamGetI32 pncclParamGetI64
    pncclParamGetU8 pncclParamGetU16 pncclParamGetU32 pncclParamGetU64
}

/// Functions that have no result number and answer nothing.
macro_rules! empty {
    ($($twin:ident -> $answer:ty)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $twin() -> $answer {
            <$answer>::default()
        }
    )*};
}

empty! {
    pncclParamDumpAll -> ()
}
