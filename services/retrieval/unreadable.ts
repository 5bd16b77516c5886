/** Content that no document can be made of; the description says why, to whoever sent it. */
export class UnreadableContent extends Error {}
