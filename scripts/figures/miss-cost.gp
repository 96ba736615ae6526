# Cost of an access against the working set, and TLB reaches. Data sets of the
# curves: working set, median, low, high. The last one, when `marks`: the
# working sets that enclose a reach, and a label.
set title title_text."\n".place_text
set xlabel "working set (bytes)\n\
TLB reach: between the working sets a grey bar spans, 4K pages begin to cost\n\
more than 2M pages; data caches cost both the same"
set ylabel 'time / access (ns)'
set key outside top right
set grid lc '#dddddd'
set logscale x 2
set xrange [smallest / 1.3 : largest * 1.3]
set xtics ('4K' 4096, '16K' 16384, '64K' 65536, '128K' 2 ** 17, \
    '256K' 2 ** 18, '512K' 2 ** 19, '1M' 2 ** 20, '2M' 2 ** 21, \
    '4M' 2 ** 22, '8M' 2 ** 23, '16M' 2 ** 24, '32M' 2 ** 25, '64M' 2 ** 26, \
    '128M' 2 ** 27, '256M' 2 ** 28, '512M' 2 ** 29, '1G' 2 ** 30, \
    '4G' 2.0 ** 32, '16G' 2.0 ** 34, '64G' 2.0 ** 36)
array points = [4, 6, 8, 10, 12, 14, 1, 2]

if (logarithmic) {
    set logscale y
    set yrange [10 ** floor(log10(low * 0.9)) : high * 3]
    height_of(i) = high * 2.5 / 1.35 ** i
} else {
    set yrange [0 : high * 1.3]
    height_of(i) = high * (1.25 - 0.06 * i)
}
is_right(x) = x > sqrt(smallest * largest)
between(a, b) = sqrt(a * b)
unset label
do for [i = 0 : marks - 1] {
    from = value(sprintf('fits_%d', i))
    to = value(sprintf('exceeds_%d', i))
    mark = value(sprintf('mark_%d', i))
    if (is_right(to)) {
        set label i + 1 sprintf('%s', mark) at from, height_of(i) right offset -1, 0
    } else {
        set label i + 1 sprintf('%s', mark) at to, height_of(i) left offset 1, 0
    }
}

# A reach lies between two working sets: the vertical line stands between them
# and the bar at its label spans them.
plot for [i = 0 : series - 1] data index i using 1:2:3:4 \
         with yerrorlines lw 1.5 dt 1 + i pt points[1 + i % |points|] \
         lc rgb colours[1 + value(sprintf('colour_%d', i))] \
         title columnheader(1), \
     for [i = 0 : marks - 1] data index series every ::i::i \
         using (between($1, $2)):(height_of(i)) \
         with impulses lc rgb '#777777' dt 3 lw 1.5 notitle, \
     for [i = 0 : marks - 1] data index series every ::i::i \
         using (between($1, $2)):(height_of(i)):1:2 \
         with xerrorbars lc rgb '#777777' pt 0 notitle
