//! Groups.

use crate::abi::types::ResultNumber;
use crate::abi::unbuilt;
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

/// Ends the group without starting it, as the interface says, and has no estimate to give.
#[unsafe(no_mangle)]
extern "C" fn pncclGroupSimulateEnd() -> ResultNumber {
    wall::grouped("ncclGroupSimulateEnd", || {
        let error = unbuilt::error("ncclGroupSimulateEnd");
        if group::is_open() {
            group::poison(&error);
            // It reports the poison, or an earlier error of the group.
            group::end()?;
        }
        Err(error)
    })
}
