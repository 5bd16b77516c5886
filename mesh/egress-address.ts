import { isIPv4, isIPv6 } from "node:net"
import ipaddr from "ipaddr.js"

/**
 * What stands behind an IP address: the open internet, this machine and its private networks, or
 * something that nothing may be sent to (link-local and so metadata services, multicast, reserved,
 * addresses that tunnel to others).
 */
export type AddressKind = "public" | "private" | "forbidden"

const privateRanges = new Set(["loopback", "private", "uniqueLocal"])
const nat64 = ipaddr.IPv6.parseCIDR("64:ff9b::/96")
const globalUnicast = ipaddr.IPv6.parseCIDR("2000::/3")

/** The kind of an address; what is no address is forbidden. */
export function kindOfAddress(text: string): AddressKind {
  const written = canonical(text.replace(/%.*$/, ""))
  if (written === undefined) return "forbidden"
  const address = unmapped(ipaddr.parse(written))
  const range = address.range()
  if (privateRanges.has(range)) return "private"
  if (range !== "unicast") return "forbidden"
  if (address instanceof ipaddr.IPv4) return "public"
  return address.match(globalUnicast) && !hasEmbeddedIpv4(address) ? "public" : "forbidden"
}

/** An address in its one usual form: in others, ipaddr.js reads `::8.8.8.8` as a mapped one. */
function canonical(text: string): string | undefined {
  if (isIPv4(text)) return text
  return isIPv6(text) ? new URL(`http://[${text}]/`).hostname.slice(1, -1) : undefined
}

/** The IPv4 address that an IPv6 one stands for: mapped, or translated by NAT64. */
function unmapped(address: ipaddr.IPv4 | ipaddr.IPv6): ipaddr.IPv4 | ipaddr.IPv6 {
  if (address instanceof ipaddr.IPv4) return address
  if (address.isIPv4MappedAddress()) return address.toIPv4Address()
  if (!address.match(nat64)) return address
  const translated = new ipaddr.IPv4(address.toByteArray().slice(12))
  // Nobody translates to a private network: what asks for one wants around this check.
  return translated.range() === "unicast" ? translated : address
}

/** ISATAP writes an IPv4 address into the host part of any prefix. */
function hasEmbeddedIpv4(address: ipaddr.IPv6): boolean {
  const { parts } = address
  return (parts[4] === 0 || parts[4] === 0x200) && parts[5] === 0x5efe
}
