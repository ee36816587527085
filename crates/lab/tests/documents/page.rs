//! A document, taken apart: its blocks of commands and configurations, with what stands before them.

use std::fs;
use std::path::Path;

use lab::paths;

/// One document.
#[derive(Debug)]
pub struct Page {
    /// Its path in the repository.
    pub name: String,
    /// All of it.
    pub text: String,
    /// Its blocks, in order.
    pub blocks: Vec<Block>,
}

/// What stands between two fences.
#[derive(Debug)]
pub struct Block {
    /// The line of its first fence, from 1.
    pub line: usize,
    /// What it is written in.
    pub language: Language,
    /// What was said of it.
    pub mark: Mark,
    /// Its lines.
    pub text: String,
}

/// What a block is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Commands of the shell.
    Commands,
    /// A configuration.
    Toml,
    /// What is only to be read: drawings, other people's formats.
    Other,
}

/// The comment before a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// There is none.
    None,
    /// `file: NAME`
    File(String),
    /// `form: WHY`
    Form(String),
}

impl Page {
    /// Reads a document of the repository.
    pub fn read(name: &str) -> Result<Self, String> {
        let path = paths::workspace().join(name);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(name, &text)
    }

    /// Takes it apart.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        let mut before = "";
        for (line, content) in (1..).zip(text.lines()) {
            match (&mut open, content.strip_prefix("```")) {
                (None, Some(language)) => open = Some(Block::begin(name, line, language, before)?),
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.text += &format!("{content}\n"),
                (None, None) => {}
            }
            before = content;
        }
        match open {
            None => Ok(Self { name: name.to_owned(), text: text.to_owned(), blocks }),
            Some(block) => Err(format!("{name}, line {}: a block without end", block.line)),
        }
    }

    /// The names of all VMs in the configurations that lie there for the commands.
    pub fn vms(&self) -> Vec<String> {
        let files = self.blocks.iter().filter(|block| matches!(block.mark, Mark::File(_)));
        let lines = files.flat_map(|block| block.text.lines());
        let names = lines.filter_map(|line| line.strip_prefix("[vm.")?.strip_suffix(']'));
        names.map(str::to_owned).collect()
    }
}

impl Block {
    fn begin(page: &str, line: usize, language: &str, before: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{page}, line {line}: {why}");
        let language = match language {
            "sh" => Language::Commands,
            "toml" => Language::Toml,
            "text" | "xml" | "rust" => Language::Other,
            _ => return Err(wrong("a block in no language that is known here")),
        };
        let comment = before.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
        let mark = match (language, comment.map(|c| c.split_once(": "))) {
            (Language::Other, _) | (_, None) => Mark::None,
            (Language::Toml, Some(Some(("file", name)))) => Mark::File(name.to_owned()),
            (Language::Commands, Some(Some(("form", why)))) => Mark::Form(why.to_owned()),
            _ => return Err(wrong("a comment before a block that nobody understands")),
        };
        Ok(Self { line, language, mark, text: String::new() })
    }
}

/// Makes the files that a configuration names: empty but for what `ipvisor check` looks at.
pub fn make_files(config: &str, dir: &Path) {
    for name in config.split('"').skip(1).step_by(2).filter(|name| !name.contains('/')) {
        let begins: &[u8] = match name.rsplit('.').next() {
            Some("qcow2") => b"QFI\xfb",
            Some("img" | "iso" | "vmlinuz" | "yaml") => b"",
            _ => continue,
        };
        let mut octets = vec![0; 1 << 20];
        octets[..begins.len()].copy_from_slice(begins);
        fs::write(dir.join(name), octets).unwrap();
    }
}
