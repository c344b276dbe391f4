//! `#[derive(Refusal)]`: an enum of the errors of a service, which its callers read back.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::ParseStream;
use syn::{Data, DeriveInput, Error, Fields, Ident, LitInt, LitStr, Result, Token, Type, Variant};

use crate::types::last_name;

/// Words with which nodes and the SDK itself refuse calls: an error of a service has another one.
const WORDS_OF_NODES: [&str; 5] = ["no_route", "wrong_instance", "overloaded", "bad_params", "internal"];

/// A variant, by what it is for callers.
enum Kind {
    /// It has a status, a word, and a text that is always the same.
    Fixed { status: LitInt, word: LitStr, text: LitStr },
    /// Its `String` is the text.
    WithText { status: LitInt, word: LitStr },
    /// It is any other error, as its `ServiceError` says.
    Other,
}

/// The implementations.
pub(crate) fn expand(input: &DeriveInput) -> TokenStream {
    match implementations(input) {
        Ok(implementations) => implementations,
        Err(error) => error.into_compile_error(),
    }
}

fn implementations(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Enum(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "`Refusal` is for an enum: one variant for each error"));
    };
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(&input.generics, "an enum of errors is not generic"));
    }
    let mut variants: Vec<(&Ident, Kind)> = Vec::new();
    for variant in &data.variants {
        let kind = Kind::parse(variant)?;
        if let Some(word) = kind.word()
            && variants.iter().filter_map(|(_, kind)| kind.word()).any(|other| other.value() == word.value())
        {
            return Err(Error::new(word.span(), "another variant has this word: callers could not tell them apart"));
        }
        variants.push((&variant.ident, kind));
    }
    let name = &input.ident;
    let to_error = variants.iter().map(|(variant, kind)| match kind {
        Kind::Fixed { status, word, text } => {
            quote!(#name::#variant => ::node_sdk::ServiceError::new(#status, #word, #text))
        }
        Kind::WithText { status, word } => {
            quote!(#name::#variant(text) => ::node_sdk::ServiceError::new(#status, #word, text))
        }
        Kind::Other => quote!(#name::#variant(error) => error),
    });
    let read = variants.iter().filter_map(|(variant, kind)| match kind {
        Kind::Fixed { word, .. } => Some(quote!(#word => ::core::option::Option::Some(#name::#variant))),
        Kind::WithText { word, .. } => {
            Some(quote!(#word => ::core::option::Option::Some(#name::#variant(message.to_owned()))))
        }
        Kind::Other => None,
    });
    let listed = variants.iter().filter_map(|(_, kind)| match kind {
        Kind::Fixed { status, word, text } => Some(quote!((#status, #word, #text))),
        Kind::WithText { status, word } => Some(quote!((#status, #word, ""))),
        Kind::Other => None,
    });
    let others =
        variants.iter().filter(|(_, kind)| matches!(kind, Kind::Other)).map(|(variant, _)| other(name, variant));
    Ok(quote! {
        impl ::core::convert::From<#name> for ::node_sdk::ServiceError {
            fn from(error: #name) -> Self {
                match error {
                    #(#to_error,)*
                }
            }
        }

        impl ::node_sdk::Refusal for #name {
            type AtCaller = ::node_sdk::ServiceCallError<Self>;

            const LISTED: &'static [(u16, &'static str, &'static str)] = &[#(#listed),*];

            fn at_caller(error: ::node_sdk::CallError) -> Self::AtCaller {
                ::node_sdk::ServiceCallError::read(error)
            }

            fn read(reason: &str, message: &str) -> ::core::option::Option<Self> {
                let _ = message;
                match reason {
                    #(#read,)*
                    _ => ::core::option::Option::None,
                }
            }
        }

        #(#others)*
    })
}

/// What `?` makes of other errors.
fn other(name: &Ident, variant: &Ident) -> TokenStream {
    quote! {
        impl ::core::convert::From<::node_sdk::ServiceError> for #name {
            fn from(error: ::node_sdk::ServiceError) -> Self {
                #name::#variant(error)
            }
        }

        impl ::core::convert::From<::node_sdk::CallError> for #name {
            fn from(error: ::node_sdk::CallError) -> Self {
                #name::#variant(::core::convert::From::from(error))
            }
        }

        impl<E: ::node_sdk::Refusal> ::core::convert::From<::node_sdk::ServiceCallError<E>> for #name {
            fn from(error: ::node_sdk::ServiceCallError<E>) -> Self {
                #name::#variant(::core::convert::From::from(error))
            }
        }
    }
}

impl Kind {
    fn parse(variant: &Variant) -> Result<Self> {
        let Some(attribute) = variant.attrs.iter().find(|attribute| attribute.path().is_ident("refusal")) else {
            let text = "say what callers are told: `#[refusal(404, \"no_good\", \"there is no such good\")]`";
            return Err(Error::new_spanned(variant, text));
        };
        let field = match &variant.fields {
            Fields::Unit => None,
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => fields.unnamed.first().map(|field| &field.ty),
            Fields::Unnamed(_) | Fields::Named(_) => return Err(wrong_fields(variant)),
        };
        attribute.parse_args_with(|input: ParseStream<'_>| Self::parse_settings(input, variant, field))
    }

    fn parse_settings(input: ParseStream<'_>, variant: &Variant, field: Option<&Type>) -> Result<Self> {
        let field_name = field.and_then(last_name).map(ToString::to_string);
        if input.peek(Ident) {
            let other: Ident = input.parse()?;
            return match field_name.as_deref() {
                Some("ServiceError") if other == "other" => Ok(Self::Other),
                _ if other == "other" => {
                    Err(Error::new(other.span(), "`other` is for a variant with a `ServiceError`"))
                }
                _ => Err(Error::new(other.span(), "write a status and a word, or `other`")),
            };
        }
        let (status, word) = (input.parse::<LitInt>()?, (input.parse::<Token![,]>()?, input.parse::<LitStr>()?).1);
        if !status.base10_parse::<u16>().is_ok_and(|status| (400..=599).contains(&status)) {
            return Err(Error::new(status.span(), "an error has a status of 400 to 599"));
        }
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let text = word.value();
        if text.is_empty() || !text.bytes().all(is_letter) {
            return Err(Error::new(word.span(), "a word is in snake_case: programs compare it"));
        }
        if WORDS_OF_NODES.contains(&&*text) {
            return Err(Error::new(word.span(), "nodes refuse calls with this word, before a service has seen them"));
        }
        let fixed =
            if input.is_empty() { None } else { Some((input.parse::<Token![,]>()?, input.parse::<LitStr>()?).1) };
        match (field_name.as_deref(), fixed) {
            (None, Some(text)) if field.is_none() => Ok(Self::Fixed { status, word, text }),
            (None, None) if field.is_none() => Err(Error::new(word.span(), "a text for people follows the word")),
            (Some("String"), None) => Ok(Self::WithText { status, word }),
            (Some("String"), Some(text)) => Err(Error::new(text.span(), "the text is the variant's `String`")),
            _ => Err(wrong_fields(variant)),
        }
    }

    fn word(&self) -> Option<&LitStr> {
        match self {
            Self::Fixed { word, .. } | Self::WithText { word, .. } => Some(word),
            Self::Other => None,
        }
    }
}

fn wrong_fields(variant: &Variant) -> Error {
    let text = "a variant has no data, or one `String`, which is the text for people: nothing else is sent";
    Error::new_spanned(variant, text)
}
