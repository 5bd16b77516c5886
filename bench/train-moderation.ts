/**
 * `npm run train:moderation -- FOLDER`: trains the classifier that ships, from the public sets in
 * FOLDER (RUNWARDEN_EVAL_DATA if not given), and writes its file. The same data give the same file.
 */
import { createHash } from "node:crypto"
import { parseArgs } from "node:util"
import { prepare, trainFolds, trainWhole } from "../services/moderation/quality/folds.ts"
import { readTrainingSets } from "./moderation-sets.ts"

const { positionals } = parseArgs({ allowPositionals: true })
const folder = positionals[0] ?? process.env.RUNWARDEN_EVAL_DATA
if (folder === undefined) {
  console.error("say where the public sets are: npm run train:moderation -- FOLDER")
  process.exit(2)
}
const texts = readTrainingSets(folder)
const version = createHash("sha256").update(JSON.stringify(texts)).digest("hex").slice(0, 16)
console.log(`${texts.length} texts; five times on four fifths, to calibrate, and once on all`)
const prepared = prepare(texts)
const { calibrations } = trainFolds(prepared, (done) => console.log(`  ${done}`))
const { file, size } = trainWhole(prepared, version, calibrations)
console.log(`${file}: ${size} bytes, version ${version}`)
