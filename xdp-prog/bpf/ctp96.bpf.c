/* CTP-96: hands the daemon's frames to its AF_XDP sockets and leaves the rest to the kernel.
 *
 * A packet is the daemon's if it is an unfragmented UDP datagram to one of its ports (and addresses,
 * if any are named). Then its CTP-96 header is checked by the rules of the library's own parser. A
 * good frame goes to the socket of the queue it arrived on; one that is no frame, or one handshake
 * frame too many of one source, is dropped. Whatever is in doubt below UDP is the kernel's affair:
 * it is passed on untouched. Each packet is counted once, by verdict.
 *
 * Only the first buffer of a packet can be read directly, and, without CAP_PERFMON, only at offsets
 * that are constants. So each header is copied to the stack: directly where possible, else by the
 * kernel's helper, which reads anywhere. Lengths are compared with the length of all buffers. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* CTP96_* and VERDICT_*, from src/rules.rs. */
#include "ctp96_rules.h"

#define inline_always static __attribute__((always_inline)) inline

#define MAX_VLAN_TAGS 2
#define IPV4_MORE_OR_OFFSET 0x3fff
#define CAS_TRIES 4

struct vlan_tag {
	__be16 control;
	__be16 type;
};

struct option_header {
	__u8 next;
	__u8 units; /* of 8 bytes, the first not counted */
};

/* 24 bytes, little-endian. */
struct ctp96_header {
	__u8 kind; /* low nibble; version in the high one */
	__u8 flags;
	__u8 lane;
	__u8 symbol;
	__u8 session[4];
	__u8 pn[8];
	__u8 slot[4];
	__u8 k;
	__u8 class;
	__u8 len[2];
};
_Static_assert(sizeof(struct ctp96_header) == CTP96_HEADER_LEN, "header length");

/* IPv4 addresses are mapped into IPv6. */
struct address {
	__be32 word[4];
};

/* Whose handshake frames are counted together: an IPv4 address, or an IPv6 network of 64 bits, for
 * one attacker easily owns one. */
struct source {
	__be32 word[2];
	__u32 is_ipv4;
	__u32 unused;
};

struct packet {
	struct xdp_md *ctx;
	void *at;             /* where the next header is, if `direct` */
	void *end;            /* of the first buffer */
	__u32 offset;         /* of the next header */
	__u32 total;          /* bytes of all buffers */
	__u32 payload;        /* bytes behind the IP headers */
	int direct;
	struct address to;
	struct source from;
};

/* Set by the loader before the program is loaded. */
volatile const __u64 handshake_interval_ns = 0; /* 0: no limit */
volatile const __u64 handshake_burst_ns = 0;
volatile const __u32 check_address = 0;

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* One bit for each of the 65,536 ports. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CTP96_MAX_ADDRESSES);
	__type(key, struct address);
	__type(value, __u8);
} addresses SEC(".maps");

/* When the next handshake frame of a source would be on time (GCRA, a token bucket in one word). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CTP96_MAX_SOURCES);
	__type(key, struct source);
	__type(value, __u64);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

inline_always __u32 le16(const __u8 *b)
{
	return b[0] | (__u32)b[1] << 8;
}

inline_always int all_zero(const __u8 *b, int n)
{
	__u8 any = 0;

	for (int i = 0; i < n; i++)
		any |= b[i];
	return any == 0;
}

inline_always int is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* Copies the next bytes; 0 if there are not so many. Where the processor cares for alignment, the
 * kernel has put the packet so that all headers behind the EtherType lie at multiples of 4. */
#define ALIGNED 4

inline_always int load(const struct packet *p, void *to, __u32 bytes)
{
	if (p->direct && p->at + bytes <= p->end) {
		__builtin_memcpy(to, __builtin_assume_aligned(p->at, ALIGNED), bytes);
		return 1;
	}
	return bpf_xdp_load_bytes(p->ctx, p->offset, to, bytes) == 0;
}

/* Over a header whose length is a constant, or is not. */
inline_always void advance(struct packet *p, __u32 bytes)
{
	p->at += bytes;
	p->offset += bytes;
}

inline_always void advance_by_variable(struct packet *p, __u32 bytes)
{
	p->direct = 0;
	p->offset += bytes;
}

inline_always int daemon_port(__be16 port)
{
	__u32 n = bpf_ntohs(port), word = n >> 6;
	__u64 *bits = bpf_map_lookup_elem(&ports, &word);

	return bits && (*bits >> (n & 63) & 1);
}

/* The rules of Header::parse, in its order where the order shows in the verdict. `len` is the UDP
 * payload, and at least a header can be read. */
inline_always int check_frame(const struct ctp96_header *h, __u32 len)
{
	__u32 kind = h->kind & 0xf;
	__u32 body = le16(h->len);
	__u32 tag = kind < CTP96_KIND_OFFER ? CTP96_TAG_LEN : 0;

	if (h->kind >> 4 != CTP96_VERSION)
		return VERDICT_FOREIGN;
	if (kind < CTP96_KIND_SYMBOL || kind > CTP96_KIND_LAST)
		return VERDICT_MALFORMED;
	if (h->flags & ~CTP96_FLAGS_MASK || h->lane >= CTP96_MAX_LANES)
		return VERDICT_MALFORMED;
	if (CTP96_HEADER_LEN + body + tag != len)
		return VERDICT_MALFORMED;
	if (kind == CTP96_KIND_SYMBOL) {
		if (h->pn[7] & 0x80)
			return VERDICT_MALFORMED;
		if (h->k == 0 || h->k > CTP96_MAX_DATA_SYMBOLS)
			return VERDICT_MALFORMED;
		if (h->symbol >= h->k + CTP96_MAX_REPAIR_SYMBOLS)
			return VERDICT_MALFORMED;
		if (h->class >= CTP96_WINDOW_SLOTS)
			return VERDICT_MALFORMED;
		if (body == 0 || body % CTP96_SYMBOL_ALIGN || body > CTP96_MAX_SYMBOL_LEN)
			return VERDICT_MALFORMED;
		if (h->flags & CTP96_FLAG_PART && body <= CTP96_PART_HEAD_LEN)
			return VERDICT_MALFORMED;
		return VERDICT_REDIRECTED;
	}
	if (h->flags & CTP96_FLAG_PART)
		return VERDICT_MALFORMED;
	if (h->symbol || h->k || h->class || !all_zero(h->slot, sizeof(h->slot)))
		return VERDICT_MALFORMED;
	if (kind == CTP96_KIND_CONTROL)
		return h->pn[7] & 0x80 ? VERDICT_REDIRECTED : VERDICT_MALFORMED;
	if (h->flags || h->lane || !all_zero(h->pn, sizeof(h->pn)))
		return VERDICT_MALFORMED;
	return VERDICT_REDIRECTED;
}

inline_always int admit_handshake(const struct source *from)
{
	__u64 interval = handshake_interval_ns, burst = handshake_burst_ns;
	__u64 now, first, *due;

	if (!interval)
		return 1;
	now = bpf_ktime_get_ns();
	due = bpf_map_lookup_elem(&sources, from);
	if (!due) {
		first = now + interval;
		if (!bpf_map_update_elem(&sources, from, &first, BPF_NOEXIST))
			return 1;
		due = bpf_map_lookup_elem(&sources, from);
		/* No memory for another source: the daemon has a ration of its own. */
		if (!due)
			return 1;
	}
	for (int i = 0; i < CAS_TRIES; i++) {
		__u64 old = *(volatile __u64 *)due;
		__u64 next = (old > now ? old : now) + interval;

		if (next > now + burst)
			return 0;
		if (__sync_val_compare_and_swap(due, old, next) == old)
			return 1;
	}
	/* Other CPUs changed it each time: this source is busy enough. */
	return 0;
}

inline_always int check_datagram(struct packet *p)
{
	struct udphdr udp;
	struct ctp96_header h __attribute__((aligned(4)));
	__u32 len;
	int verdict;

	if (p->payload < sizeof(udp) || !load(p, &udp, sizeof(udp)))
		return VERDICT_PASSED;
	if (!daemon_port(udp.dest))
		return VERDICT_PASSED;
	if (check_address && !bpf_map_lookup_elem(&addresses, &p->to))
		return VERDICT_PASSED;
	/* Shorter than the IP payload is allowed: the kernel ignores the surplus, too. */
	len = bpf_ntohs(udp.len);
	if (len > p->payload || len < sizeof(udp) + sizeof(h))
		return VERDICT_MALFORMED;
	len -= sizeof(udp);
	if (len > CTP96_MAX_FRAME_LEN)
		return VERDICT_MALFORMED;
	advance(p, sizeof(udp));
	if (!load(p, &h, sizeof(h)))
		return VERDICT_PASSED;
	verdict = check_frame(&h, len);
	if (verdict == VERDICT_REDIRECTED && (h.kind & 0xf) >= CTP96_KIND_OFFER &&
	    !admit_handshake(&p->from))
		return VERDICT_RATE_LIMITED;
	return verdict;
}

inline_always int check_ipv4(struct packet *p)
{
	struct iphdr ip;
	__u32 header, total;

	if (!load(p, &ip, sizeof(ip)))
		return VERDICT_PASSED;
	header = ip.ihl * 4;
	total = bpf_ntohs(ip.tot_len);
	if (ip.version != 4 || header < sizeof(ip) || total < header)
		return VERDICT_PASSED;
	if (p->offset + total > p->total)
		return VERDICT_PASSED;
	if (ip.protocol != IPPROTO_UDP)
		return VERDICT_PASSED;
	if (ip.frag_off & bpf_htons(IPV4_MORE_OR_OFFSET))
		return VERDICT_FRAGMENT;
	p->payload = total - header;
	p->to.word[2] = bpf_htonl(0xffff);
	p->to.word[3] = ip.daddr;
	p->from.word[0] = ip.saddr;
	p->from.is_ipv4 = 1;
	if (header == sizeof(ip))
		advance(p, sizeof(ip));
	else
		advance_by_variable(p, header);
	return check_datagram(p);
}

inline_always int check_ipv6(struct packet *p)
{
	struct option_header option __attribute__((aligned(4)));
	struct ipv6hdr ip;
	__u32 len;
	__u8 next;

	if (!load(p, &ip, sizeof(ip)) || ip.version != 6)
		return VERDICT_PASSED;
	__builtin_memcpy(&p->to, &ip.daddr, sizeof(p->to));
	__builtin_memcpy(p->from.word, &ip.saddr, sizeof(p->from.word));
	advance(p, sizeof(ip));
	p->payload = bpf_ntohs(ip.payload_len);
	if (p->offset + p->payload > p->total)
		return VERDICT_PASSED;
	next = ip.nexthdr;
#pragma unroll
	for (int i = 0; i < CTP96_MAX_EXTENSION_HEADERS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_DSTOPTS)
			break;
		if (p->payload < sizeof(option) || !load(p, &option, sizeof(option)))
			return VERDICT_PASSED;
		len = (option.units + 1) * 8;
		if (len > p->payload)
			return VERDICT_PASSED;
		next = option.next;
		p->payload -= len;
		advance_by_variable(p, len);
	}
	if (next == IPPROTO_FRAGMENT)
		return VERDICT_FRAGMENT;
	if (next != IPPROTO_UDP)
		return VERDICT_PASSED;
	return check_datagram(p);
}

inline_always int check_packet(struct xdp_md *ctx)
{
	struct packet p = {
		.ctx = ctx,
		.at = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.total = bpf_xdp_get_buff_len(ctx),
		.direct = 1,
	};
	struct vlan_tag tag;
	__be16 type;

	advance(&p, 2 * ETH_ALEN);
	if (!load(&p, &type, sizeof(type)))
		return VERDICT_PASSED;
	advance(&p, sizeof(type));
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		if (!is_vlan(type))
			break;
		if (!load(&p, &tag, sizeof(tag)))
			return VERDICT_PASSED;
		type = tag.type;
		advance(&p, sizeof(tag));
	}
	if (type == bpf_htons(ETH_P_IP))
		return check_ipv4(&p);
	if (type == bpf_htons(ETH_P_IPV6))
		return check_ipv6(&p);
	return VERDICT_PASSED;
}

inline_always int handle(struct xdp_md *ctx)
{
	__u32 verdict = check_packet(ctx);
	int action = XDP_PASS;
	__u64 *count;

	if (verdict == VERDICT_REDIRECTED) {
		action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
		if (action != XDP_REDIRECT)
			verdict = VERDICT_NO_SOCKET;
	} else if (verdict >= VERDICT_FOREIGN) {
		action = XDP_DROP;
	}
	count = bpf_map_lookup_elem(&verdicts, &verdict);
	if (count)
		*count += 1;
	return action;
}

SEC("xdp")
int ctp96(struct xdp_md *ctx)
{
	return handle(ctx);
}

SEC("xdp.frags")
int ctp96_frags(struct xdp_md *ctx)
{
	return handle(ctx);
}

char _license[] SEC("license") = "Dual MIT/GPL";
