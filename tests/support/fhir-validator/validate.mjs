// Validates FHIR R4 resources: one JSON resource a line in, one JSON array of complaints a line out.

import { createInterface } from "node:readline";
import fhir from "fhir";

const validator = new fhir.Fhir();
// Warnings are about codes outside of value sets that need not be kept to. The codes that we choose
// are to keep to them; procedures and reasons have the codes of whoever sent them.
const SENDERS_CODES = /\.(procedureCode|reasonCode)\[/;

for await (const line of createInterface({ input: process.stdin })) {
  const { valid, messages } = validator.validate(JSON.parse(line), { errorOnUnexpected: true });
  const complaints = messages
    .filter(({ severity }) => severity !== "info")
    .filter(({ severity, location }) => severity !== "warning" || !SENDERS_CODES.test(location))
    .map(({ severity, location, message }) => `${severity}: ${location}: ${message}`);
  if (!valid && complaints.length === 0) {
    complaints.push("error: not valid, without an explanation");
  }
  process.stdout.write(JSON.stringify(complaints) + "\n");
}
