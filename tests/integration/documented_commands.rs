//! What the pages have one type, against what there is: commands, variables, admin pages, statements, targets of make.

use std::collections::BTreeSet;
use std::fs;

use clap::{Arg, Command, CommandFactory as _};
use komainu::cli::Cli;
use komainu::cluster::state::FailoverKind;

use super::documentation::{between, pages, read, root};
use super::source::files;

/// The inline code of a page, and the lines of its blocks, with those joined that go on.
fn code(text: &str) -> Vec<String> {
    let (mut fenced, mut found) = (false, Vec::new());
    for line in text.replace("\\\n", " ").lines() {
        if line.trim_start().starts_with("```") {
            fenced ^= true;
        } else if fenced {
            found.push(line.to_owned());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The commands of komainu's that a piece of code runs, without what the shell does with them.
fn commands(code: &str) -> Vec<&str> {
    let is_shell = |c: char| matches!(c, '|' | ';' | '&' | '>' | '<' | '#' | '(' | ')');
    code.split(is_shell)
        .map(|part| {
            let part = part.trim().trim_start_matches("$ ");
            part.strip_prefix("sudo ").unwrap_or(part)
        })
        .filter(|part| part.strip_prefix("komainu ").is_some_and(|rest| !rest.starts_with(' ')))
        .collect()
}

/// What in this is not known to the command line.
fn unknown(line: &str, program: &Command) -> Option<String> {
    let (mut command, mut words) = (program, line.split_whitespace().skip(1).peekable());
    while let Some(word) = words.next() {
        if let Some(flag) = word.strip_prefix("--") {
            let (flag, value) =
                flag.split_once('=').map_or((flag, None), |(flag, value)| (flag, Some(value)));
            let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == Some(flag)) else {
                return Some(format!("{line}: {} has no --{flag}", command.get_name()));
            };
            if arg.get_action().takes_values() && value.is_none() {
                words.next_if(|word| !word.starts_with("--"));
            }
        } else if let Some(inner) = command.find_subcommand(word) {
            command = inner;
        } else if command.has_subcommands() && word.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Some(format!("{line}: {} has no {word}", command.get_name()));
        }
    }
    None
}

fn program() -> Command {
    let mut program = Cli::command();
    program.build();
    program
}

/// Each command that does something, by its words.
fn leaves(command: &Command, path: &str, each: &mut dyn FnMut(&str, &Command)) {
    let inner =
        || command.get_subcommands().filter(|inner| inner.get_name() != "help" && !inner.is_hide_set());
    inner().for_each(|inner| leaves(inner, format!("{path} {}", inner.get_name()).trim(), each));
    if inner().next().is_none() || !command.is_subcommand_required_set() {
        each(path, command);
    }
}

#[test]
fn every_command_that_a_page_runs_is_one() {
    /// It is the name by which an agent's copy is known to PostgreSQL.
    const NONE: &str = "komainu rebuild";
    let program = program();
    let (mut wrong, mut run) = (Vec::new(), BTreeSet::new());
    for page in pages() {
        for code in code(&read(&page)) {
            for line in commands(&code).into_iter().filter(|line| *line != NONE) {
                wrong.extend(unknown(line, &program).map(|what| format!("{}: {what}", page.display())));
                run.insert(line.to_owned());
            }
        }
    }
    assert!(wrong.is_empty(), "no such commands:\n{}", wrong.join("\n"));
    for known in
        ["komainu status", "komainu server drain --wait 600 pg2", "komainu pki init --dir pki --cluster shop"]
    {
        assert!(run.contains(known), "{known} was not found: {run:#?}");
    }
    for line in ["komainu serv", "komainu server drian pg2", "komainu status --jsno"] {
        assert!(unknown(line, &program).is_some(), "{line}");
    }
    assert_eq!(unknown("komainu sandbox --mode rds start ID", &program), None);
}

#[test]
fn every_command_is_on_the_page_of_commands() {
    let page = read(&root().join("docs/commands.md"));
    let named = code(&page).join("\n");
    let mut missing = Vec::new();
    leaves(&program(), "", &mut |path, _| {
        if !path.is_empty() && !named.contains(path) {
            missing.push(path.to_owned());
        }
    });
    assert!(missing.is_empty(), "docs/commands.md lacks {missing:?}");
}

#[test]
fn every_variable_is_on_a_page_and_no_page_has_another() {
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
    let named = |text: &str| -> BTreeSet<String> {
        between(text, "KOMAINU_", "\0")
            .into_iter()
            .map(|rest| rest.chars().take_while(|c| is_name(*c)).collect::<String>())
            .filter(|name| !name.is_empty())
            .collect()
    };
    let on_pages: BTreeSet<_> = pages().iter().flat_map(|page| named(&read(page))).collect();
    let mut taken = BTreeSet::from(["SERVER".to_owned()]);
    leaves(&program(), "", &mut |_, command| {
        let names = command.get_arguments().filter_map(Arg::get_env);
        let ours = names.filter_map(|name| name.to_str().unwrap().strip_prefix("KOMAINU_"));
        taken.extend(ours.map(str::to_owned));
    });
    let missing: Vec<_> = taken.difference(&on_pages).collect();
    assert!(missing.is_empty(), "on no page: KOMAINU_{missing:?}");

    let mut sources = vec![root().join("Makefile")];
    files(&root().join("src"), "rs", &mut sources);
    files(&root().join("ami/files"), "service", &mut sources);
    let known: BTreeSet<_> = sources.iter().flat_map(|file| named(&read(file))).collect();
    let wrong: Vec<_> = on_pages.difference(&known).collect();
    assert!(wrong.is_empty(), "nothing reads KOMAINU_{wrong:?}");
}

/// The first cells of the tables in the part of a page that begins with this heading, each code in them.
fn first_cells(page: &str, heading: &str) -> Vec<Vec<String>> {
    let text = read(&root().join(page));
    let (_, part) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    let part = part.split("\n## ").next().unwrap();
    part.lines().filter_map(|line| Some(code(line.strip_prefix("| ")?.split(" | ").next()?))).collect()
}

#[test]
fn the_admin_pages_that_are_told_of_are_those_that_there_are() {
    let source = read(&root().join("src/admin/mod.rs"));
    let routes = |from: &str| -> BTreeSet<String> {
        let body = between(&source, from, "\n}\n")[0];
        between(body, ".route(\"", "(").into_iter().map(|route| route.replace("\", ", " ")).collect()
    };
    let reading = routes("fn reading()");
    let all: BTreeSet<_> = routes("fn full(").union(&reading).cloned().collect();

    let mut told = BTreeSet::new();
    for cell in first_cells("docs/commands.md", "The pages behind them") {
        let mut method = "";
        for page in &cell {
            let (before, path) = page.split_once('/').unwrap();
            method = if before.is_empty() { method } else { before.trim() };
            let path = path.split('?').next().unwrap().replace("VERSION", "{version}");
            told.insert(format!("/{path} {}", method.to_lowercase()));
        }
    }
    // Those have no command.
    told.extend(["/live get", "/ready get", "/metrics get"].map(str::to_owned));
    assert_eq!(told, all, "docs/commands.md and the pages");

    let health = first_cells("docs/operations.md", "Health pages and metrics").concat();
    let health: BTreeSet<_> = health.iter().map(|path| format!("{path} get")).collect();
    assert_eq!(health, reading, "docs/operations.md and the pages of admin.address");
    for page in ["docs/configuration.md", "docs/security.md"] {
        let text = read(&root().join(page));
        let line = text.lines().find(|line| line.starts_with("| `admin.address`")).unwrap();
        for path in &reading {
            assert!(line.contains(&format!("`{}`", path.trim_end_matches(" get"))), "{page}: {path}");
        }
    }
}

#[test]
fn the_statements_that_komainu_answers_are_told() {
    let source = read(&root().join("src/route/utility.rs"));
    let mut known = BTreeSet::new();
    for line in source.lines() {
        let name = line.trim().strip_prefix('"').and_then(|rest| rest.split_once("\" => ours(PoolShow::"));
        known.extend(name.map(|(name, _)| format!("SHOW {}", name.to_uppercase())));
    }
    let told = first_cells("docs/operations.md", "Asking komainu in SQL").concat();
    let told: BTreeSet<_> =
        told.into_iter().filter(|it| it.starts_with("SHOW ") && !it.contains('.')).collect();
    assert_eq!(told, known);
}

#[test]
fn every_kind_of_a_failover_is_told() {
    let page = read(&root().join("docs/commands.md"));
    let sentence = page.lines().find(|line| line.contains("`kind` is ")).unwrap();
    for kind in
        [FailoverKind::Restart, FailoverKind::Switchover, FailoverKind::Automatic, FailoverKind::Forced]
    {
        // Whoever adds one adds it above, too.
        match kind {
            FailoverKind::Restart
            | FailoverKind::Switchover
            | FailoverKind::Automatic
            | FailoverKind::Forced => {}
        }
        let name = serde_json::to_value(kind).unwrap();
        assert!(sentence.contains(&format!("`{}`", name.as_str().unwrap())), "{name}");
    }
}

#[test]
fn every_target_of_make_is_in_the_readme_and_no_page_has_another() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| line.contains(": ## "))
        .filter_map(|line| line.split(':').next())
        .collect();
    let readme = read(&root().join("README.md"));
    let listed =
        readme.lines().find(|line| line.starts_with("`make` alone lists the other commands")).unwrap();
    for target in targets.iter().filter(|target| **target != "help") {
        let named = listed.contains(&format!("`{target}`")) || readme.contains(&format!("make {target}"));
        assert!(named, "README.md lacks `make {target}`");
    }
    let mut wrong = Vec::new();
    for page in pages() {
        for code in code(&read(&page)) {
            let code = code.trim().trim_start_matches("$ ").to_owned();
            let target = code.strip_prefix("make ").and_then(|rest| rest.split_whitespace().next());
            if target.is_some_and(|target| !target.contains(['…', '=']) && !targets.contains(target)) {
                wrong.push(format!("{}: {code}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "no such targets:\n{}", wrong.join("\n"));
}
