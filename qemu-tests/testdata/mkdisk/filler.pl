#!/usr/bin/perl
# filler.pl BYTES SEED: a random byte stream that can be recognised wherever a piece of it turns up.
#
# Every 512-byte sector begins with "clonecast-free-space:", the seed and the sector's number; the rest is
# random. A sector that a file system allocates and writes loses its mark, so a mark that is found later
# comes from space that was free.
use strict;
my ($bytes, $seed) = @ARGV;
srand($seed);
my $pool = join '', map { pack 'L', int rand 2**32 } 1 .. 65536;
my $out = '';
for my $sector (0 .. $bytes / 512 - 1) {
    my $mark = sprintf 'clonecast-free-space:%04d:%010d:', $seed, $sector;
    $out .= $mark . substr $pool, ($sector * 7919) % (length($pool) - 512), 512 - length $mark;
    if (length $out >= 1 << 20) { print $out; $out = '' }
}
print $out;
