//! A method of a service, as its author has written it.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::{
    Attribute, Error, Expr, FnArg, Ident, LitStr, Meta, Pat, PatType, Result, ReturnType, Token, TraitItemFn, Type,
    parenthesized,
};

use crate::route_syntax::{Segment, foreign_pattern, segments, split_route};
use crate::types::{borrowed_part, generics_of, has_impl_trait, last_name};

/// Maximum number of arguments that come from the call: one less than a handler has, because the
/// others are one argument together.
const MAX_EXTRACTED: usize = 7;

/// Results that have a status or header fields beside their value.
const WRAPPERS: [&str; 3] = ["Created", "Accepted", "HttpResponse"];

/// A method with its route.
pub(super) struct Method {
    /// Its docs, and attributes that are not ours.
    pub(super) attributes: Vec<Attribute>,
    pub(super) name: Ident,
    pub(super) route: RouteText,
    /// The settings behind the route, such as `public` and `max_concurrency(10)`.
    pub(super) settings: Vec<(Ident, TokenStream)>,
    pub(super) inputs: Vec<Input>,
    /// The types of its `Result`.
    pub(super) value: Type,
    pub(super) error: Type,
    pub(super) answer: Answer,
    /// The type of the parts that the caller sends.
    pub(super) sent: Option<Type>,
}

/// The route of a method, which is one.
pub(super) struct RouteText {
    pub(super) literal: LitStr,
    pub(super) text: String,
}

/// An argument of a method.
pub(super) struct Input {
    pub(super) name: Ident,
    pub(super) ty: Type,
    pub(super) source: Source,
}

/// Where an argument comes from.
pub(super) enum Source {
    /// From the call, as the arguments of a handler. Callers do not give it.
    Call,
    /// A parameter of the path.
    Path,
    /// A member of the arguments, with what is taken if it is not there.
    Member(Option<Default>),
}

/// The value of an argument that the caller does not give.
pub(super) enum Default {
    /// The default value of its type.
    OfType,
    Value(Box<Expr>),
}

/// What a caller gets.
pub(super) enum Answer {
    Whole(Type),
    Parts(Type),
}

impl Method {
    /// Reads a method.
    ///
    /// # Errors
    /// What is wrong with it, at its place.
    pub(super) fn parse(function: &TraitItemFn) -> Result<Self> {
        let signature = &function.sig;
        if signature.asyncness.is_none() {
            return Err(Error::new_spanned(signature.fn_token, "a method of a service is async: write `async fn`"));
        }
        if let Some(body) = &function.default {
            return Err(Error::new_spanned(body, "a method of a service has no body: the service implements it"));
        }
        if !signature.generics.params.is_empty() {
            return Err(Error::new_spanned(
                &signature.generics,
                "a method of a service is not generic: name the types",
            ));
        }
        let receiver = signature.receiver().map(|receiver| receiver.to_token_stream().to_string().replace(' ', ""));
        if receiver.as_deref() != Some("&self") {
            return Err(Error::new_spanned(&signature.ident, "the first argument of a method of a service is `&self`"));
        }
        let (route, settings) = route_of(function)?;
        let (value, error) = result_of(function)?;
        let answer = Answer::of(&value)?;
        let names: Vec<&str> = route.parameters().collect();
        let mut inputs = Vec::new();
        for typed in signature.inputs.iter().filter_map(typed_of) {
            inputs.push(Input::parse(typed, &names)?);
        }
        for name in &names {
            if !inputs.iter().any(|input| matches!(input.source, Source::Path) && input.name.unraw() == name) {
                let text = format!("`{{{name}}}` is not an argument of `{}`: add `{name}: …`", signature.ident);
                return Err(Error::new(route.literal.span(), text));
            }
        }
        let extracted: Vec<&Input> = inputs.iter().filter(|input| input.is_extracted()).collect();
        if let Some(one) = extracted.get(MAX_EXTRACTED) {
            return Err(Error::new_spanned(&one.ty, "up to seven arguments of a method are `#[from_call]`"));
        }
        let sent = extracted.iter().find_map(|input| generics_of(&input.ty, "Items").first().copied().cloned());
        let (attributes, name) = (other_attributes(&function.attrs), signature.ident.clone());
        Ok(Self { attributes, name, route, settings, inputs, value, error, answer, sent })
    }

    /// The arguments that are members of what is sent.
    pub(super) fn members(&self) -> impl Iterator<Item = &Input> {
        self.inputs.iter().filter(|input| matches!(input.source, Source::Member(_)))
    }
}

impl RouteText {
    fn parse(literal: LitStr) -> Result<Self> {
        let text = literal.value();
        let broken = |reason| {
            let text = format!("this is not a route: {reason}. Write it like GET/goods or GET/goods/{{id}}");
            Error::new(literal.span(), text)
        };
        let (method, path) = split_route(&text).map_err(broken)?;
        if method == "EVENT" {
            return Err(broken("events are no methods: `NodeBuilder::subscribe` takes them"));
        }
        if let Some(reason) = foreign_pattern(path) {
            return Err(broken(reason));
        }
        Ok(Self { text, literal })
    }

    /// The method and the segments.
    pub(super) fn parts(&self) -> (&str, impl Iterator<Item = Segment<'_>>) {
        let (method, path) = self.text.split_at(self.text.find('/').unwrap_or_default());
        (method, segments(path))
    }

    fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parts().1.filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name),
            Segment::Literal(_) => None,
        })
    }

    /// The text without the names of its parameters.
    pub(super) fn unnamed(&self) -> String {
        let (method, segments) = self.parts();
        segments.fold(method.to_owned(), |text, segment| match segment {
            Segment::Parameter(_) => text + "/{}",
            Segment::Literal(literal) => text + "/" + literal,
        })
    }
}

impl Input {
    fn parse(typed: &PatType, parameters: &[&str]) -> Result<Self> {
        let Pat::Ident(pattern) = &*typed.pat else {
            return Err(Error::new_spanned(&typed.pat, "an argument of a service has a name, under which it is sent"));
        };
        let (name, ty) = (pattern.ident.clone(), (*typed.ty).clone());
        if let Some(borrowed) = borrowed_part(&ty) {
            return Err(Error::new_spanned(
                borrowed,
                "an argument owns its value, because it is sent: write `String`, …",
            ));
        }
        if has_impl_trait(&ty) {
            return Err(Error::new_spanned(ty, "name the type of the argument: a service is not generic"));
        }
        let is_parameter = parameters.iter().any(|parameter| name.unraw() == parameter);
        let mut source = if is_parameter { Source::Path } else { Source::Member(None) };
        for attribute in &typed.attrs {
            source = match (attribute.path().get_ident().map(ToString::to_string).as_deref(), source) {
                (Some("from_call"), Source::Member(None)) => Source::Call,
                (Some("default"), Source::Member(None)) => Source::Member(Some(Default::parse(attribute)?)),
                (Some("from_call" | "default"), _) => {
                    let text = "a parameter of the path, and what comes from the call, are always there";
                    return Err(Error::new_spanned(attribute, text));
                }
                _ => {
                    let text = "arguments of a service have `#[from_call]`, `#[default]` or `#[default(value)]`";
                    return Err(Error::new_spanned(attribute, text));
                }
            };
        }
        match (&source, last_name(&ty)) {
            (Source::Call, Some(last)) if last == "Params" || last == "Path" => {
                let text =
                    "the arguments of a service's method are written as they are: `id: u64`, without `#[from_call]`";
                Err(Error::new_spanned(&ty, text))
            }
            _ => Ok(Self { name, ty, source }),
        }
    }

    /// Whether it comes from the call, and not from the arguments of the caller.
    pub(super) fn is_extracted(&self) -> bool {
        matches!(self.source, Source::Call)
    }
}

impl Default {
    fn parse(attribute: &Attribute) -> Result<Self> {
        match &attribute.meta {
            Meta::Path(_) => Ok(Self::OfType),
            Meta::List(_) => Ok(Self::Value(attribute.parse_args()?)),
            Meta::NameValue(value) => Ok(Self::Value(Box::new(value.value.clone()))),
        }
    }
}

impl Answer {
    /// What a caller reads if a method returns this.
    fn of(value: &Type) -> Result<Self> {
        if let [part, ..] = generics_of(value, "BoxStreaming")[..] {
            return Ok(Self::Parts(part.clone()));
        }
        if has_impl_trait(value) || last_name(value).is_some_and(|name| name == "Streaming") {
            let text = "an answer in parts is a `BoxStreaming<T>` here, which `Streaming::boxed` makes";
            return Err(Error::new_spanned(value, text));
        }
        if last_name(value).is_some_and(|name| name == "NoContent") {
            return Ok(Self::Whole(syn::parse_quote!(())));
        }
        let wrapped = WRAPPERS.iter().find_map(|name| generics_of(value, name).first().copied());
        Ok(Self::Whole(wrapped.unwrap_or(value).clone()))
    }

    pub(super) fn ty(&self) -> &Type {
        match self {
            Self::Whole(ty) | Self::Parts(ty) => ty,
        }
    }
}

/// The attributes of a method that are not ours.
pub(super) fn other_attributes(attributes: &[Attribute]) -> Vec<Attribute> {
    attributes.iter().filter(|attribute| !attribute.path().is_ident("route")).cloned().collect()
}

fn typed_of(argument: &FnArg) -> Option<&PatType> {
    match argument {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    }
}

fn route_of(function: &TraitItemFn) -> Result<(RouteText, Vec<(Ident, TokenStream)>)> {
    let mut routes = function.attrs.iter().filter(|attribute| attribute.path().is_ident("route"));
    let Some(attribute) = routes.next() else {
        let text = "a method of a service has a route: write `#[route(\"GET/goods/{id}\")]` above it";
        return Err(Error::new_spanned(&function.sig.ident, text));
    };
    if let Some(second) = routes.next() {
        return Err(Error::new_spanned(second, "a method of a service has one route"));
    }
    attribute.parse_args_with(|input: ParseStream<'_>| {
        let literal: LitStr = input.parse()?;
        let mut settings = Vec::new();
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let name: Ident = input.parse()?;
            let values = if input.peek(syn::token::Paren) {
                let values;
                parenthesized!(values in input);
                values.parse()?
            } else {
                TokenStream::new()
            };
            settings.push((name, values));
        }
        Ok((RouteText::parse(literal)?, settings))
    })
}

fn result_of(function: &TraitItemFn) -> Result<(Type, Type)> {
    match &function.sig.output {
        ReturnType::Type(_, ty) => match generics_of(ty, "Result")[..] {
            [value, error] => Ok((value.clone(), error.clone())),
            _ => Err(Error::new_spanned(ty, "write the result as `Result<T, E>`: the client is made of both types")),
        },
        ReturnType::Default => {
            let text = "write the result as `Result<T, E>`, such as `-> Result<(), ServiceError>`";
            Err(Error::new_spanned(&function.sig.ident, text))
        }
    }
}
