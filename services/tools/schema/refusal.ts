/** Why a schema is refused, as a sentence that names the place. */
export class SchemaRefusal extends Error {}
