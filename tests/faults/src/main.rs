//! For `tests/run chaos`: `tests LEVEL` prints the names of the tests of a level; `table FILE DOCUMENT LEVEL...` prints the
//! table of what was told in FILE, fails where a promise is broken or a fault is missing, and, if all levels are given,
//! writes the table into the document.

use std::process::ExitCode;

use tollgate_faults::{FAULTS, Level, Table, insert};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match &words[..] {
        ["tests", level] => level_of(level).map(print_tests),
        ["table", file, document, levels @ ..] => table(file, document, levels),
        _ => Err("usage: tollgate-faults tests LEVEL | table FILE DOCUMENT LEVEL...".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn level_of(name: &str) -> Result<Level, String> {
    let found = Level::ALL.into_iter().find(|level| level.to_string() == name);
    found.ok_or_else(|| format!("`{name}` is no level"))
}

fn print_tests(level: Level) {
    let mut tests: Vec<&str> = FAULTS.iter().filter(|fault| fault.level == level).map(|fault| fault.test).collect();
    tests.sort_unstable();
    tests.dedup();
    tests.iter().for_each(|test| println!("{test}"));
}

fn table(file: &str, document: &str, levels: &[&str]) -> Result<(), String> {
    let levels = levels.iter().map(|name| level_of(name)).collect::<Result<Vec<Level>, String>>()?;
    let told = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let table = Table::read(&told, &levels)?;
    println!("{table}");
    let problems = table.problems();
    if !problems.is_empty() {
        return Err(format!("{} promises are not shown:\n{}", problems.len(), problems.join("\n")));
    }
    if levels != Level::ALL {
        println!("{document} is left as it is: it tells of all levels");
        return Ok(());
    }
    let text = std::fs::read_to_string(document).map_err(|error| format!("{document}: {error}"))?;
    std::fs::write(document, insert(&text, &table)?).map_err(|error| format!("{document}: {error}"))
}
