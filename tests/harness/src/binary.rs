//! The binary under test: where it is, and running its commands to their end. I/O.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `tollgate` to test: `TOLLGATE_BIN`, else the workspace's own of this test's profile, built if it is missing. Whoever
/// changes the gateway builds it before its tests: `cargo build -p tollgate && cargo test -p tollgate-stages`.
///
/// # Panics
/// It cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("TOLLGATE_BIN") {
            return path.into();
        }
        let test = std::env::current_exe().expect("a running test has an executable");
        let profile =
            test.parent().and_then(Path::parent).and_then(Path::file_name).expect("tests run from PROFILE/deps");
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        // Not beside the test: cargo may build in one folder and put what is finished into another.
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(workspace.join("target"), PathBuf::from);
        let binary = target.join(profile).join("tollgate");
        if !binary.exists() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "-p", "tollgate", "--locked"]).current_dir(workspace);
            if profile != "debug" {
                build.arg("--profile").arg(profile);
            }
            let status = build.status().expect("cargo runs");
            assert!(status.success() && binary.exists(), "there is no {}", binary.display());
        }
        binary
    })
}

/// A command that ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `tollgate` with these arguments to its end, in an environment without Tollgate's variables.
///
/// # Panics
/// It does not start.
pub fn run<const N: usize>(arguments: [&str; N]) -> Finished {
    let mut command = Command::new(binary());
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if is_ours(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
    let output = command.output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Finished { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// A variable that the gateway reads, and which must not leak from the machine into a test.
pub(crate) fn is_ours(name: &str) -> bool {
    (name.starts_with("TOLLGATE_") && name != "TOLLGATE_BIN") || name.starts_with("LITELLM_")
}
