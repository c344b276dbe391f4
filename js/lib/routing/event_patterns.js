'use strict';

// Names of events, and the patterns to which they belong: a `*` is any one word, and a `>` at the
// end all words that follow.

const MAX_WORDS = 16; // of a pattern: what all nodes take, as a look-up has to follow them
const MAX_WILDCARDS = 3; // of a pattern, for the same reason

const isWildcard = (word) => word === '*' || word === '>';

// Why a name with a * or a > is not a pattern; null if it is one, or has none.
function patternFault(name) {
  if (!/[*>]/.test(name)) return null;
  const words = name.split('.');
  if (words.some((word) => !isWildcard(word) && /[*>]/.test(word))) {
    return 'a * or a > is a whole word, as in orders.* or orders.>';
  }
  if (words.slice(0, -1).includes('>')) return 'a > is the last word; in other places, write a *';
  if (words.includes('')) return 'a word is empty';
  if (words.length > MAX_WORDS) return `a name with wildcards has at most ${MAX_WORDS} words`;
  if (words.filter(isWildcard).length > MAX_WILDCARDS) return `a name has at most ${MAX_WILDCARDS} wildcards`;
  return null;
}

const isPattern = (name) => /[*>]/.test(name) && patternFault(name) === null;

// Whether an event of this name belongs to a pattern.
function matchesPattern(pattern, name) {
  const [wanted, words] = [pattern.split('.'), name.split('.')];
  for (const [at, word] of wanted.entries()) {
    if (!words[at]) return false;
    if (word === '>') return true;
    if (word !== '*' && word !== words[at]) return false;
  }
  return wanted.length === words.length;
}

// The more specific of two patterns that match one event comes first: at the first word at which
// they differ, a word is before a `*`, and a `*` before a `>`.
function bySpecificity(one, other) {
  const rank = (word) => (word === '>' ? 2 : Number(word === '*'));
  const [mine, others] = [one, other].map((pattern) => pattern.split('.').map(rank));
  const at = mine.findIndex((value, index) => value !== others[index]);
  return at < 0 ? 0 : mine[at] - (others[at] ?? 0);
}

module.exports = { bySpecificity, isPattern, isWildcard, matchesPattern, patternFault };
