//! From tokens to a [`Node`], by recursive descent: every way down passes [`Parser::expression`], which counts how deep
//! it is before it goes further. Names and types are checked on the way up, so that a [`Node`] makes sense as it is.

use super::token::{Placed, Token, shown, tokens};
use super::{Fault, Field, MAX_DEPTH, Table};

/// A part of a condition. Nothing in it is judged more than once.
#[derive(Debug)]
pub(super) enum Node {
    Bool(bool),
    Number(i64),
    Text(Box<str>),
    Field(Field),
    /// The entry of a name.
    Entry(Table, Box<Node>),
    Not(Box<Node>),
    All(Vec<Node>),
    Any(Vec<Node>),
    Compare(Order, Box<[Node; 2]>),
    /// Searches in the first for the second.
    Search(Search, Box<[Node; 2]>),
    InTags(Box<Node>),
    /// Whether the table has an entry of that name.
    InTable(Table, Box<Node>),
    InList(Box<Node>, Vec<Node>),
    CountTags,
    /// Characters of a text.
    Length(Box<Node>),
    /// The second where the first holds, else the third.
    Choose(Box<[Node; 3]>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Same,
    Other,
    Less,
    LessOrSame,
    More,
    MoreOrSame,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Search {
    Begins,
    Ends,
    Contains,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Bool,
    Number,
    Text,
}

impl Type {
    fn described(self) -> &'static str {
        match self {
            Type::Bool => "true or false",
            Type::Number => "a number",
            Type::Text => "a text",
        }
    }
}

/// What stands between operators: a value, or something that has parts.
enum Term {
    Value(Node, Type),
    Request,
    Key,
    Table(Table),
    Tags,
    List(Vec<Node>, Type),
}

impl Term {
    fn described(&self) -> &'static str {
        match self {
            Term::Value(_, kind) => kind.described(),
            Term::Request => "`request`",
            Term::Key => "`key`",
            Term::Table(Table::Headers) => "`request.headers`",
            Term::Table(Table::Labels) => "`key.labels`",
            Term::Tags => "`request.tags`",
            Term::List(..) => "a list",
        }
    }
}

const FUNCTIONS: &str = "contains, startsWith, endsWith, size and has";

/// Reads all of a text, which must be true or false in the end.
pub(super) fn condition(text: &str) -> Result<Node, Fault> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0 };
    let term = parser.expression()?;
    if *parser.peek() != Token::End {
        return Err(parser.unexpected("an operator or the end"));
    }
    match term {
        Term::Value(node, Type::Bool) => Ok(node),
        other => Err(Fault(format!("the condition is {}, not true or false", other.described()))),
    }
}

struct Parser {
    /// The last is the end, and is not taken.
    tokens: Vec<Placed>,
    next: usize,
    depth: usize,
}

type Parsed = Result<Term, Fault>;

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].0
    }

    /// Of the next token, in characters from 1.
    fn at(&self) -> usize {
        self.tokens[self.next].1
    }

    fn take(&mut self) -> Token {
        let taken = self.peek().clone();
        if taken != Token::End {
            self.next += 1;
        }
        taken
    }

    fn takes(&mut self, sign: &'static str) -> bool {
        let is_it = *self.peek() == Token::Sign(sign);
        self.next += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), Fault> {
        if self.takes(sign) { Ok(()) } else { Err(self.unexpected(&format!("`{sign}`"))) }
    }

    fn unexpected(&self, wanted: &str) -> Fault {
        Fault(format!("{wanted} is missing at character {}, where {} stands", self.at(), self.peek()))
    }

    /// Lowest of all: `a ? b : c`.
    fn expression(&mut self) -> Parsed {
        if self.depth == MAX_DEPTH {
            let at = self.at();
            return Err(Fault(format!("brackets and choices nest deeper than {MAX_DEPTH} at character {at}")));
        }
        self.depth += 1;
        let at = self.at();
        let mut term = self.chain("||", "&&")?;
        if self.takes("?") {
            let condition = value_of(term, Type::Bool, at, "what stands before `?`")?;
            let (one, kind) = self.scalar("a choice")?;
            self.expect(":")?;
            let other_at = self.at();
            let (other, other_kind) = self.scalar("a choice")?;
            if kind != other_kind {
                let (kind, other_kind) = (kind.described(), other_kind.described());
                let text =
                    format!("both sides of `:` must be alike; at character {other_at} is {other_kind}, not {kind}");
                return Err(Fault(text));
            }
            term = Term::Value(Node::Choose(Box::new([condition, one, other])), kind);
        }
        self.depth -= 1;
        Ok(term)
    }

    /// An expression that is a plain value.
    fn scalar(&mut self, whose: &str) -> Result<(Node, Type), Fault> {
        let at = self.at();
        plain(self.expression()?, at, whose)
    }

    /// An expression of one type.
    fn typed(&mut self, kind: Type, what: &str) -> Result<Node, Fault> {
        let at = self.at();
        value_of(self.expression()?, kind, at, what)
    }

    /// `a || b || …` of `a && b && …`, flat, however long.
    fn chain(&mut self, sign: &'static str, tighter: &'static str) -> Parsed {
        let at = self.at();
        let is_widest = sign == "||";
        let link = |parser: &mut Parser| match is_widest {
            true => parser.chain(tighter, ""),
            false => parser.relation(),
        };
        let first = link(self)?;
        if *self.peek() != Token::Sign(sign) {
            return Ok(first);
        }
        let what = format!("what stands beside `{sign}`");
        let mut nodes = vec![value_of(first, Type::Bool, at, &what)?];
        while self.takes(sign) {
            let at = self.at();
            nodes.push(value_of(link(self)?, Type::Bool, at, &what)?);
        }
        Ok(Term::Value(if is_widest { Node::Any(nodes) } else { Node::All(nodes) }, Type::Bool))
    }

    fn relation(&mut self) -> Parsed {
        let at = self.at();
        let first = self.unary()?;
        let operator_at = self.at();
        let Some(relation) = self.relation_sign() else { return Ok(first) };
        let second_at = self.at();
        let second = self.unary()?;
        let node = match relation {
            Relation::In => self.within(plain(first, at, "`in`")?, second, second_at)?,
            Relation::Order(order) => {
                let (one, kind) = plain(first, at, "a comparison")?;
                let (other, other_kind) = plain(second, second_at, "a comparison")?;
                if kind != other_kind {
                    let (kind, other) = (kind.described(), other_kind.described());
                    return Err(Fault(format!("{kind} is compared with {other} at character {operator_at}")));
                }
                if kind == Type::Bool && !matches!(order, Order::Same | Order::Other) {
                    return Err(Fault(format!("true and false have no order, at character {operator_at}")));
                }
                Node::Compare(order, Box::new([one, other]))
            }
        };
        let at = self.at();
        if self.relation_sign().is_some() {
            return Err(Fault(format!("put one of the comparisons in brackets, at character {at}")));
        }
        Ok(Term::Value(node, Type::Bool))
    }

    fn relation_sign(&mut self) -> Option<Relation> {
        let relation = match self.peek() {
            Token::Name(name) if &**name == "in" => Relation::In,
            Token::Sign("==") => Relation::Order(Order::Same),
            Token::Sign("!=") => Relation::Order(Order::Other),
            Token::Sign("<") => Relation::Order(Order::Less),
            Token::Sign("<=") => Relation::Order(Order::LessOrSame),
            Token::Sign(">") => Relation::Order(Order::More),
            Token::Sign(">=") => Relation::Order(Order::MoreOrSame),
            _ => return None,
        };
        self.next += 1;
        Some(relation)
    }

    /// `x in request.tags`, `x in request.headers`, `x in [1, 2]`.
    fn within(&self, (node, kind): (Node, Type), container: Term, at: usize) -> Result<Node, Fault> {
        let held = match &container {
            Term::List(_, held) => *held,
            Term::Tags | Term::Table(_) => Type::Text,
            other => {
                let other = other.described();
                return Err(Fault(format!(
                    "`in` needs a list, tags, headers or labels at character {at}, not {other}"
                )));
            }
        };
        if held != kind {
            let (kind, held) = (kind.described(), held.described());
            return Err(Fault(format!("`in` looks for {kind} where each is {held}, at character {at}")));
        }
        Ok(match container {
            Term::List(list, _) => Node::InList(Box::new(node), list),
            Term::Table(table) => Node::InTable(table, Box::new(node)),
            _ => Node::InTags(Box::new(node)),
        })
    }

    fn unary(&mut self) -> Parsed {
        let (at, mut is_inverted, mut is_bool) = (self.at(), false, false);
        while self.takes("!") {
            (is_inverted, is_bool) = (!is_inverted, true);
        }
        let term = self.member()?;
        if !is_bool {
            return Ok(term);
        }
        let node = value_of(term, Type::Bool, at, "what stands behind `!`")?;
        Ok(Term::Value(if is_inverted { Node::Not(Box::new(node)) } else { node }, Type::Bool))
    }

    /// A term and what is taken of it: `.name`, `.name(…)`, `[…]`.
    fn member(&mut self) -> Parsed {
        let at = self.at();
        let mut term = self.primary()?;
        loop {
            if self.takes(".") {
                let name_at = self.at();
                let Token::Name(name) = self.take() else {
                    return Err(Fault(format!("a name is missing behind `.` at character {name_at}")));
                };
                term = match self.takes("(") {
                    true => self.method(term, at, &name, name_at)?,
                    false => select(term, &name, name_at)?,
                };
            } else if self.takes("[") {
                let Term::Table(table) = term else {
                    let what = term.described();
                    return Err(Fault(format!(
                        "`[` takes from headers and labels, not from {what}, at character {at}"
                    )));
                };
                let name = self.typed(Type::Text, "what stands in `[ ]`")?;
                self.expect("]")?;
                term = Term::Value(Node::Entry(table, Box::new(name)), Type::Text);
            } else {
                return Ok(term);
            }
        }
    }

    /// The brackets are open.
    fn method(&mut self, term: Term, at: usize, name: &str, name_at: usize) -> Parsed {
        let search = match name {
            "contains" => Search::Contains,
            "startsWith" => Search::Begins,
            "endsWith" => Search::Ends,
            "size" => {
                self.expect(")")?;
                return size(term, at);
            }
            _ => return Err(unknown_function(name, name_at)),
        };
        if !matches!(term, Term::Value(_, Type::Text)) {
            let what = term.described();
            let text = format!("`{name}` searches a text, not {what}, at character {name_at}; use `'a' in …` there");
            return Err(Fault(text));
        }
        let text = value_of(term, Type::Text, at, "what is searched")?;
        let part = self.typed(Type::Text, "what is searched for")?;
        self.expect(")")?;
        Ok(Term::Value(Node::Search(search, Box::new([text, part])), Type::Bool))
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        match self.peek() {
            Token::Name(_) | Token::Text(_) | Token::Number(_) | Token::Sign("(" | "[") => {}
            _ => return Err(self.unexpected("a value")),
        }
        match self.take() {
            Token::Text(text) => Ok(Term::Value(Node::Text(text), Type::Text)),
            Token::Number(number) => Ok(Term::Value(Node::Number(number), Type::Number)),
            Token::Name(name) => self.named(&name, at),
            Token::Sign("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            _ => self.list(at),
        }
    }

    /// The bracket is open.
    fn list(&mut self, at: usize) -> Parsed {
        let mut list = Vec::new();
        let mut kind = None;
        while !self.takes("]") {
            let one_at = self.at();
            let (node, one) = self.scalar("a list")?;
            if *kind.get_or_insert(one) != one {
                return Err(Fault(format!("all of a list must be alike, at character {one_at}")));
            }
            list.push(node);
            if !self.takes(",") {
                self.expect("]")?;
                break;
            }
        }
        let kind = kind.ok_or_else(|| Fault(format!("the list at character {at} is empty")))?;
        Ok(Term::List(list, kind))
    }

    fn named(&mut self, name: &str, at: usize) -> Parsed {
        if self.takes("(") {
            return self.function(name, at);
        }
        match name {
            "true" | "false" => Ok(Term::Value(Node::Bool(name == "true"), Type::Bool)),
            "request" => Ok(Term::Request),
            "key" => Ok(Term::Key),
            "null" => Err(Fault(format!("`null` at character {at} is nothing; what a call does not have is `''`"))),
            _ => {
                let name = shown(name);
                Err(Fault(format!("unknown name `{name}` at character {at}; there are `request` and `key`")))
            }
        }
    }

    /// The brackets are open.
    fn function(&mut self, name: &str, at: usize) -> Parsed {
        let argument_at = self.at();
        match name {
            "size" => {
                let argument = self.expression()?;
                self.expect(")")?;
                size(argument, argument_at)
            }
            "has" => {
                let argument = self.expression()?;
                self.expect(")")?;
                match argument {
                    Term::Value(Node::Entry(table, name), _) => Ok(Term::Value(Node::InTable(table, name), Type::Bool)),
                    Term::Value(Node::Field(_), _) => Err(Fault(format!(
                        "each call has what `has` asks for at character {argument_at}; compare it with `''`"
                    ))),
                    _ => Err(Fault(format!("`has` needs a header or a label at character {argument_at}"))),
                }
            }
            _ => Err(unknown_function(name, at)),
        }
    }
}

enum Relation {
    In,
    Order(Order),
}

/// A plain value.
fn plain(term: Term, at: usize, whose: &str) -> Result<(Node, Type), Fault> {
    match term {
        Term::Value(node, kind) => Ok((node, kind)),
        other => {
            let what = other.described();
            Err(Fault(format!("{whose} is of texts, numbers, true and false, not of {what}, at character {at}")))
        }
    }
}

/// A value of one type.
fn value_of(term: Term, kind: Type, at: usize, what: &str) -> Result<Node, Fault> {
    match term {
        Term::Value(node, found) if found == kind => Ok(node),
        other => {
            let (kind, other) = (kind.described(), other.described());
            Err(Fault(format!("{what} must be {kind}, not {other}, at character {at}")))
        }
    }
}

fn size(term: Term, at: usize) -> Parsed {
    let node = match term {
        Term::Tags => Node::CountTags,
        Term::Value(node, Type::Text) => Node::Length(Box::new(node)),
        other => {
            let what = other.described();
            return Err(Fault(format!("`size` is of texts and of `request.tags`, not of {what}, at character {at}")));
        }
    };
    Ok(Term::Value(node, Type::Number))
}

fn select(term: Term, name: &str, at: usize) -> Parsed {
    let text = |field| Ok(Term::Value(Node::Field(field), Type::Text));
    match (&term, name) {
        (Term::Request, "model") => text(Field::Model),
        (Term::Request, "endUser") => text(Field::EndUser),
        (Term::Request, "tags") => Ok(Term::Tags),
        (Term::Request, "headers") => Ok(Term::Table(Table::Headers)),
        (Term::Key, "name") => text(Field::KeyName),
        (Term::Key, "namespace") => text(Field::KeyNamespace),
        (Term::Key, "team") => text(Field::Team),
        (Term::Key, "user") => text(Field::User),
        (Term::Key, "labels") => Ok(Term::Table(Table::Labels)),
        (Term::Table(table), name) => {
            Ok(Term::Value(Node::Entry(*table, Box::new(Node::Text(name.into()))), Type::Text))
        }
        (other, name) => {
            let (what, name) = (other.described(), shown(name));
            let known = match other {
                Term::Request => "; it has model, tags, headers and endUser",
                Term::Key => "; it has name, namespace, team, user and labels",
                _ => "",
            };
            Err(Fault(format!("{what} has no `{name}`, at character {at}{known}")))
        }
    }
}

fn unknown_function(name: &str, at: usize) -> Fault {
    let why = match name {
        "all" | "exists" | "exists_one" | "existsOne" | "map" | "filter" => "conditions have no loops",
        "matches" => "conditions have no regular expressions",
        _ => "it is unknown",
    };
    let name = shown(name);
    Fault(format!("`{name}` at character {at} cannot be used: {why}; there are {FUNCTIONS}"))
}
