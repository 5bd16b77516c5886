/**
 * Letters of other scripts that are drawn like Latin ones, by what they are read as. A small map of
 * those that fonts hardly tell apart; full-width, mathematical and circled letters are not in it
 * because NFKC turns them into Latin already.
 */
const lookAlikes: Readonly<Record<string, string>> = {
  a: "аɑαạɐ",
  b: "Ьƅв",
  c: "сϲᴄ",
  d: "ԁɗ",
  e: "еҽɘє℮",
  f: "ſƒ",
  g: "ɡցģ",
  h: "һհн",
  i: "іıɩιӏ",
  j: "јϳ",
  k: "κкĸ",
  l: "ӏⅼǀןا",
  m: "мṃ",
  n: "ոռп",
  o: "оοօσ๐໐ဝ०੦૦ଠ൦",
  p: "рρϱ",
  q: "ԛգ",
  r: "гᴦɾ",
  s: "ѕʂꜱ",
  t: "тτᴛ",
  u: "υսʋц",
  v: "νѵᴠ",
  w: "ԝωѡᴡ",
  x: "хχ×",
  y: "уүγʏ",
  z: "ᴢʐ",
  A: "АΑᎪ",
  B: "ВΒᏴ",
  C: "СϹᏟ",
  D: "ᎠÐ",
  E: "ЕΕᎬ",
  F: "Ϝ",
  G: "ԌᏀ",
  H: "НΗᎻ",
  I: "ІΙӀ",
  J: "ЈᎫ",
  K: "КΚᏦ",
  L: "ᏞⳐ",
  M: "МΜᎷ",
  N: "ΝⲚ",
  O: "ОΟՕ",
  P: "РΡᏢ",
  Q: "Ԛ",
  R: "ᎡᏒ",
  S: "ЅՏᏚ",
  T: "ТΤᎢ",
  U: "ՍԱ",
  V: "ѴᏙ",
  W: "ԜᎳ",
  X: "ХΧ",
  Y: "ҮΥУ",
  Z: "ΖᏃ",
}

const latinOf: ReadonlyMap<string, string> = new Map(
  Object.entries(lookAlikes).flatMap(([latin, others]) =>
    Array.from(others, (other): [string, string] => [other, latin]),
  ),
)

const anyLookAlike = new RegExp(`[${[...latinOf.keys()].join("")}]`, "gu")

/** Writes every look-alike as the Latin letter it is read as. */
export function toLatin(text: string): string {
  return text.replace(anyLookAlike, (letter) => latinOf.get(letter) ?? letter)
}

/**
 * The same text for names of ASCII characters that a reader may take for each other: by case, `1` for
 * `l`, `0` for `o`, `rn` for `m`, `vv` for `w`, one dash for another.
 */
export function looksOf(name: string): string {
  return name
    .replaceAll(/[I|1]/g, "l")
    .toLowerCase()
    .replaceAll("0", "o")
    .replaceAll("rn", "m")
    .replaceAll("vv", "w")
    .replaceAll("-", "_")
}
