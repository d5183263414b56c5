/* Random frame loss: a tc classifier with direct action.
 *
 * DROP_BELOW is the probability scaled to 2^32, given at compile time. ARP and IPv6 neighbour
 * discovery always pass: losing them would test the kernel's one-second resolution timers, not
 * the transport. Drops are counted by the clsact qdisc itself (tc -s qdisc). */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifndef DROP_BELOW
#error "define DROP_BELOW: the drop probability times 2^32"
#endif

#define IPV6_NEXT_HEADER (ETH_HLEN + 6)
#define ICMPV6_TYPE (ETH_HLEN + 40)
#define NEXTHDR_ICMPV6 58
#define ND_FIRST 133
#define ND_LAST 137

static int is_resolution(struct __sk_buff *skb)
{
    __u8 next = 0, type = 0;

    if (skb->protocol == bpf_htons(ETH_P_ARP))
        return 1;
    if (skb->protocol != bpf_htons(ETH_P_IPV6))
        return 0;
    if (bpf_skb_load_bytes(skb, IPV6_NEXT_HEADER, &next, 1) || next != NEXTHDR_ICMPV6)
        return 0;
    if (bpf_skb_load_bytes(skb, ICMPV6_TYPE, &type, 1))
        return 0;
    return type >= ND_FIRST && type <= ND_LAST;
}

SEC("tc")
int lose(struct __sk_buff *skb)
{
    if (is_resolution(skb))
        return TC_ACT_OK;
    return bpf_get_prandom_u32() < (__u32)DROP_BELOW ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "Dual MIT/GPL";
