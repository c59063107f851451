//! What Cargo built beside the tests.

use std::path::PathBuf;

/// The library under test: the one that `SHOAL_TEST_LIBRARY` names, else the one that was built with this test.
pub(crate) fn library() -> PathBuf {
    if let Some(named) = std::env::var_os("SHOAL_TEST_LIBRARY") {
        return named.into();
    }
    let test = std::env::current_exe().expect("a test knows where it is");
    let folder = test.parent().expect("it lies in a folder");
    let places = [folder.join("libshoal.so"), folder.join("../libshoal.so")];
    places.into_iter().find(|place| place.exists()).expect("Cargo builds the library before the tests")
}
