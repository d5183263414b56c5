/* What a path may do to packets besides losing them: a tc classifier with direct action.
 *
 * MODE, given at compile time:
 *   1  every EVERYth packet that is ECN-capable is marked "congestion experienced";
 *   2  the ECN bits are cleared;
 *   3  ICMP "fragmentation needed" and ICMPv6 "packet too big" are dropped, and nothing else.
 *
 * A GSO super-packet is one packet here, and its segments share its mark. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifndef MODE
#error "define MODE"
#endif

#define IPV4_TOS (ETH_HLEN + 1)
#define IPV4_PROTOCOL (ETH_HLEN + 9)
#define IPV4_CHECK (ETH_HLEN + 10)
#define IPV4_ICMP (ETH_HLEN + 20)
#define IPV6_FIRST ETH_HLEN
#define IPV6_NEXT_HEADER (ETH_HLEN + 6)
#define IPV6_ICMP (ETH_HLEN + 40)

static int is_too_big(struct __sk_buff *skb)
{
    __u8 kind[2] = {}, next = 0;

    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        /* Destination unreachable, fragmentation needed. */
        return !bpf_skb_load_bytes(skb, IPV4_PROTOCOL, &next, 1) && next == 1 &&
               !bpf_skb_load_bytes(skb, IPV4_ICMP, kind, 2) && kind[0] == 3 && kind[1] == 4;
    }
    if (skb->protocol == bpf_htons(ETH_P_IPV6))
        return !bpf_skb_load_bytes(skb, IPV6_NEXT_HEADER, &next, 1) && next == 58 &&
               !bpf_skb_load_bytes(skb, IPV6_ICMP, kind, 1) && kind[0] == 2;
    return 0;
}

static void clear_marks(struct __sk_buff *skb)
{
    __u8 old, new;

    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (bpf_skb_load_bytes(skb, IPV4_TOS, &old, 1))
            return;
        new = old & ~3;
        /* The byte is the low half of a 16-bit word of the header. */
        bpf_l3_csum_replace(skb, IPV4_CHECK, bpf_htons(old), bpf_htons(new), 2);
        bpf_skb_store_bytes(skb, IPV4_TOS, &new, 1, 0);
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        if (bpf_skb_load_bytes(skb, IPV6_FIRST + 1, &old, 1))
            return;
        new = old & ~0x30;
        bpf_skb_store_bytes(skb, IPV6_FIRST + 1, &new, 1, 0);
    }
}

SEC("tc")
int treat(struct __sk_buff *skb)
{
#if MODE == 1
    if (bpf_get_prandom_u32() % EVERY == 0)
        bpf_skb_ecn_set_ce(skb);
#elif MODE == 2
    clear_marks(skb);
#else
    if (is_too_big(skb))
        return TC_ACT_SHOT;
#endif
    (void)is_too_big;
    (void)clear_marks;
    return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual MIT/GPL";
