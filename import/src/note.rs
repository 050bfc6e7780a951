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

    /// What is said of one place is said in one note.
    fn add(&mut self, note: Note) {
        let Some(present) = self.0.iter_mut().find(|present| present.path == note.path) else {
            self.0.push(note);
            return;
        };
        if !present.message.contains(&note.message) {
            present.message = format!("{}; {}", present.message, note.message);
        }
        if present.hint.is_empty() {
            present.hint = note.hint;
        }
        present.is_error |= note.is_error;
    }

    /// In the order in which they were found, which follows the file's blocks.
    pub fn into_vec(self) -> Vec<Note> {
        self.0
    }
}
