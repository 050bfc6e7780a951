//! A condition's words and signs.

use super::Fault;

/// Characters of a text that an error repeats.
const MAX_SHOWN: usize = 32;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Name(Box<str>),
    Text(Box<str>),
    Number(i64),
    /// `&&`, `(` and the like.
    Sign(&'static str),
    End,
}

/// A token and where it begins, in characters from 1.
pub(super) type Placed = (Token, usize);

/// Longer ones first where one begins like another.
const SIGNS: [&str; 17] = ["&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ",", ".", "?", ":"];

/// All tokens, the end last.
pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, Fault> {
    let mut reader = Reader { rest: text, at: 1 };
    let mut tokens = Vec::new();
    loop {
        reader.skip_blank();
        let at = reader.at;
        let token = reader.token()?;
        let is_end = token == Token::End;
        tokens.push((token, at));
        if is_end {
            return Ok(tokens);
        }
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Name(name) => write!(f, "`{}`", shown(name)),
            Token::Text(text) => write!(f, "the text `{}`", shown(text)),
            Token::Number(number) => write!(f, "`{number}`"),
            Token::Sign(sign) => write!(f, "`{sign}`"),
            Token::End => write!(f, "the end"),
        }
    }
}

/// Short, and on one line.
pub(super) fn shown(text: &str) -> String {
    let mut characters = text.chars().flat_map(char::escape_debug);
    let mut shown: String = characters.by_ref().take(MAX_SHOWN).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

struct Reader<'t> {
    rest: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        self.at += 1;
        Some(next)
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'t str {
        let from = self.rest;
        while self.peek().is_some_and(&is_part) {
            self.next();
        }
        &from[..from.len() - self.rest.len()]
    }

    /// Comments reach to the end of their line.
    fn skip_blank(&mut self) {
        loop {
            self.take_while(|c| c.is_ascii_whitespace());
            if !self.rest.starts_with("//") {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn token(&mut self) -> Result<Token, Fault> {
        let at = self.at;
        let Some(first) = self.peek() else { return Ok(Token::End) };
        if matches!(first, '\'' | '"') {
            return self.text(false);
        }
        if matches!(first, 'r' | 'R') && self.rest[1..].starts_with(['\'', '"']) {
            self.next();
            return self.text(true);
        }
        if matches!(first, 'a'..='z' | 'A'..='Z' | '_') {
            return Ok(Token::Name(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_').into()));
        }
        if first.is_ascii_digit() || first == '-' {
            self.next();
            let digits = self.take_while(|c| c.is_ascii_digit());
            let is_whole = !self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
            let number = match first {
                '-' => format!("-{digits}"),
                first => format!("{first}{digits}"),
            };
            let number = number.parse().ok().filter(|_| is_whole);
            return number
                .map(Token::Number)
                .ok_or_else(|| Fault(format!("whole numbers only, and no arithmetic, at character {at}")));
        }
        let Some(sign) = SIGNS.iter().find(|sign| self.rest.starts_with(**sign)) else {
            let first = first.escape_debug();
            return Err(Fault(format!("`{first}` at character {at} means nothing in a condition")));
        };
        self.take(sign.len());
        Ok(Token::Sign(sign))
    }

    fn take(&mut self, characters: usize) {
        for _ in 0..characters {
            self.next();
        }
    }

    /// In single or double quotes; `is_raw`: a backslash is one.
    fn text(&mut self, is_raw: bool) -> Result<Token, Fault> {
        let at = self.at;
        let quote = self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None | Some('\n' | '\r') => {
                    return Err(Fault(format!("the text that begins at character {at} does not end on its line")));
                }
                same if same == quote => return Ok(Token::Text(text.into())),
                Some('\\') if !is_raw => text.push(self.escaped()?),
                Some(other) => text.push(other),
            }
        }
    }

    /// What stands behind a backslash.
    fn escaped(&mut self) -> Result<char, Fault> {
        let at = self.at - 1;
        let unknown = || Fault(format!("unknown escape at character {at}; a backslash itself is written twice"));
        let digits = match self.next() {
            Some(same @ ('\\' | '\'' | '"' | '`' | '?')) => return Ok(same),
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some('x' | 'X') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return Err(unknown()),
        };
        let mut code = 0u32;
        for _ in 0..digits {
            let digit = self.next().and_then(|c| c.to_digit(16)).ok_or_else(unknown)?;
            code = code.checked_mul(16).ok_or_else(unknown)? + digit;
        }
        char::from_u32(code).ok_or_else(unknown)
    }
}
