//! What a person should know about their file after it was read: everything that has no equivalent, or another one.

/// One remark about one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where in the file: `model_list[0].litellm_params.foo`; empty for the whole file.
    pub path: String,
    /// What is the matter. Never holds a value that may be secret.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// The setting, or the entry it belongs to, cannot be used at all.
    pub is_error: bool,
}

/// All notes so far, at most one for a place.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<Note>);

impl Notes {
    /// It works, or is left out, otherwise than the file says.
    pub fn warn(&mut self, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Note { path: path.into(), message: message.into(), hint: hint.into(), is_error: false });
    }

    /// It cannot be used.
    pub fn error(&mut self, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Note { path: path.into(), message: message.into(), hint: hint.into(), is_error: true });
    }

    /// Of two at one place the first stays, unless only the second is an error.
    fn add(&mut self, note: Note) {
        match self.0.iter_mut().find(|present| present.path == note.path) {
            Some(present) if note.is_error && !present.is_error => *present = note,
            Some(_) => {}
            None => self.0.push(note),
        }
    }

    /// In the order in which they were found, which follows the file's blocks.
    pub fn into_vec(self) -> Vec<Note> {
        self.0
    }
}
