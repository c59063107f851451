//! Groups.

use crate::abi::types::ResultNumber;
use crate::abi::wall;
use crate::group;

#[unsafe(no_mangle)]
extern "C" fn pncclGroupStart() -> ResultNumber {
    wall::plain("ncclGroupStart", || {
        group::start();
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn pncclGroupEnd() -> ResultNumber {
    wall::grouped_answering("ncclGroupEnd", group::end)
}
